"""Run records and the tables made of them."""

import json
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest

from mssf_lite import results
from mssf_lite.results import describe_dataset, environment, read_records, write_record
from mssf_lite.tables import differences, flat, table

IMAGE = {"image AUROC": "metrics.pooled.image_auroc"}


def a_record(auroc=0.9, seed=0, **changes):
    return {
        "method": "mssf",
        "profile": "full",
        "seed": seed,
        "textures": ("magnetic tile",),
        "dataset": {
            "name": "mt",
            "split": "tile",
            "seed": seed,
            "digest": f"d{seed}",
            "counts": {"train": 3},
        },
        "config": {"image_size": (256, 256), "epochs": 12},
        "environment": {"python": "3.11"},
        "sizes": {"trainable": 1_234_567, "frozen": 3},
        "times": {"fit": 10.0, "predict_per_image": 0.1},
        "metrics": {"pooled": {"image_auroc": auroc}},
        "yardsticks": {"gaussian": {"pooled": {"image_auroc": auroc - 0.1}}},
        "training": [{"epoch": 0, "loss": 1.5}],
    } | changes


# --- the environment


def test_the_environment_is_plain_and_names_what_a_number_depends_on():
    found = environment("cpu")
    assert json.loads(json.dumps(found)) == found
    assert found.keys() >= {
        "python",
        "torch",
        "timm",
        "FrEIA",
        "numpy",
        "device",
        "threads",
        "commit",
        "platform",
    }
    assert found["numpy"] == np.__version__
    assert "unknown" not in (found["torch"], found["device"])


def test_the_environment_never_fails(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    monkeypatch.setattr(results, "PACKAGES", ("no-such-package",))
    monkeypatch.setattr(results.Path, "read_text", absent)
    found = environment("cpu")
    assert found["commit"] == found["no-such-package"] == "unknown"
    assert found["device"]


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_the_commit_is_that_of_the_package_and_of_no_other_repository(tmp_path):
    assert results._commit(tmp_path) == "unknown"
    git(tmp_path, "init")
    (tmp_path / "results.py").write_text("first")
    (tmp_path / "other.py").write_text("")
    git(tmp_path, "add", "other.py")
    git(tmp_path, "commit", "-m", "other")
    assert results._commit(tmp_path) == "unknown"  # an installed copy that git does not track
    git(tmp_path, "add", "results.py")
    git(tmp_path, "commit", "-m", "ours")
    clean = results._commit(tmp_path)
    assert clean.isalnum() and clean != "unknown"
    (tmp_path / "results.py").write_text("second")
    assert results._commit(tmp_path) == f"{clean}-dirty"


# --- writing and reading


def test_a_record_comes_back_as_it_was_written(tmp_path):
    @dataclass
    class Progress:
        epoch: int
        loss: float

    made = a_record(training=[Progress(0, 1.5)], metrics={"pooled": {"image_auroc": np.float32(0.5)}})
    path = write_record(tmp_path / "new" / "records", made)
    assert path.name == "mt-tile-mssf-full-seed0.json"
    assert read_records(path.parent) == [
        json.loads(json.dumps(a_record() | {"metrics": {"pooled": {"image_auroc": 0.5}}}))
    ]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_equal_records_are_equal_files(tmp_path):
    one = write_record(tmp_path, a_record()).read_bytes()
    assert one == write_record(tmp_path, dict(reversed(a_record().items()))).read_bytes()
    assert len(list(tmp_path.iterdir())) == 1


def test_names_with_slashes_stay_inside_the_folder(tmp_path):
    path = write_record(tmp_path, a_record(method="../my method"))
    assert path.parent == tmp_path
    assert path.name == "mt-tile-.._my_method-full-seed0.json"


@pytest.mark.parametrize("key", ["method", "yardsticks", "environment"])
def test_a_missing_entry_is_named(tmp_path, key):
    record = a_record()
    del record[key]
    with pytest.raises(ValueError, match=f"lacks {key}: add"):
        write_record(tmp_path, record)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_inner_entry_is_named(tmp_path):
    with pytest.raises(ValueError, match="lacks frozen in 'sizes'"):
        write_record(tmp_path, a_record(sizes={"trainable": 1}))


@pytest.mark.parametrize("bad", [float("nan"), np.float32("inf")])
def test_numbers_that_are_none_are_refused_and_located(tmp_path, bad):
    with pytest.raises(ValueError, match=r"record\.training\[1\]\.loss is (nan|inf)"):
        write_record(tmp_path, a_record(training=[{"loss": 1.0}, {"loss": bad}]))
    assert list(tmp_path.iterdir()) == []


def test_what_json_cannot_hold_is_located(tmp_path):
    with pytest.raises(TypeError, match=r"record\.config\.lists is a ndarray"):
        write_record(tmp_path, a_record(config={"lists": np.zeros(3)}))


def test_a_failed_write_leaves_the_old_record(tmp_path, monkeypatch):
    path = write_record(tmp_path, a_record(auroc=0.1))
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_record(tmp_path, a_record(auroc=0.2))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_records_are_chosen_by_what_they_are(tmp_path):
    for seed in (0, 1):
        write_record(tmp_path, a_record(seed=seed))
        write_record(tmp_path, a_record(seed=seed, method="msflow"))
    assert len(read_records(tmp_path)) == 4
    assert [r["seed"] for r in read_records(tmp_path, dataset="mt", split="tile", method="msflow")] == [0, 1]
    assert read_records(tmp_path, profile="fast") == []
    with pytest.raises(ValueError, match="cannot filter records by texture: use dataset, split"):
        read_records(tmp_path, texture="wood")


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b'{"method": "mssf"}'])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "broken.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.json"):
        read_records(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: run a training chapter first"):
        read_records(tmp_path / "nowhere")


def test_a_data_set_is_described():
    @dataclass
    class Data:
        name: str = "mt"
        split: str = "tile"
        seed: int = 3
        digest: str = "abc"
        train: tuple = (1, 2, 3)
        held_out: tuple = (4,)
        test: tuple = (np.bool_, np.bool_)

    class Shown:
        is_defect = True

    class Normal:
        is_defect = False

    found = describe_dataset(Data(test=(Shown(), Normal(), Shown())))
    assert found == {
        "name": "mt",
        "split": "tile",
        "seed": 3,
        "digest": "abc",
        "counts": {"train": 3, "held_out": 1, "test_normal": 1, "test_defect": 2},
    }


# --- tables


def test_a_table_gives_mean_spread_and_seeds_with_yardsticks_as_rows():
    found = table([a_record(0.8, seed=0), a_record(0.9, seed=1), a_record(1.0, seed=2)], IMAGE)
    assert found.values.tolist() == [
        ["mt", "tile", "MSSF", "0.900\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.100", 3],
        ["mt", "tile", "Gaussian", "0.800\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.100", 3],
    ]
    assert list(found.columns) == ["dataset", "split", "method", "image AUROC", "seeds"]


def test_two_seeds_have_a_spread():
    found = table([a_record(0.8, seed=0), a_record(0.9, seed=1)], IMAGE)
    assert found["image AUROC"][0] == "0.850\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.071"  # 0.05 * sqrt(2)


def test_one_seed_has_no_spread_and_what_was_not_measured_stays_empty():
    columns = IMAGE | {"AUPRO": "metrics.pooled.aupro", "parameters": "sizes.trainable", "fit": "times.fit"}
    found = table([a_record(0.8)], columns, digits=1)
    assert found.values.tolist() == [
        ["mt", "tile", "MSSF", "0.8", "", "1,234,567", "10.0", 1],
        ["mt", "tile", "Gaussian", "0.7", "", "", "", 1],
    ]


def test_splits_are_never_mixed_into_one_row():
    published = a_record(1.0, dataset=a_record()["dataset"] | {"split": "published"})
    found = table([a_record(0.8), published], IMAGE)
    assert found[found.method == "MSSF"]["image AUROC"].tolist() == ["0.800", "1.000"]


def test_the_same_yardstick_beside_two_methods_is_one_row():
    found = table([a_record(), a_record(method="msflow")], IMAGE)
    assert found.method.tolist() == ["MSSF", "Gaussian", "MSFlow"]
    assert found.seeds.tolist() == [1, 1, 1]


def test_profiles_are_not_averaged_as_if_they_were_seeds():
    records = [a_record(0.8), a_record(0.9, profile="fast")]
    with pytest.raises(ValueError, match=r"two different runs of .*'mssf'"):
        table(records, IMAGE)
    by = ("method", "profile")
    assert table(records, IMAGE, by=by).profile.tolist() == ["full", "full", "fast", "fast"]


def test_methods_on_different_file_lists_are_not_compared():
    other = a_record(method="msflow", dataset=a_record()["dataset"] | {"digest": "another"})
    with pytest.raises(ValueError, match="different file lists"):
        table([a_record(), other], IMAGE)


def test_a_table_of_nothing_is_empty():
    assert table([], IMAGE).shape == (0, 5)


def test_variants_are_rows_and_files_of_their_own(tmp_path):
    for variant in ("", "2 blocks"):
        write_record(tmp_path, a_record(variant=variant, yardsticks={}))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mt-tile-mssf-full-2_blocks-seed0.json",
        "mt-tile-mssf-full-seed0.json",
    ]
    assert len(read_records(tmp_path, variant="2 blocks")) == 1
    assert list(table(read_records(tmp_path), IMAGE, by=("variant",))["variant"]) == ["2 blocks", ""]


def test_flat_records_have_a_row_each_and_a_column_for_every_number(tmp_path):
    for seed, auroc in ((0, 0.9), (1, 0.8)):
        write_record(tmp_path, a_record(seed=seed, auroc=auroc))
    rows = flat(read_records(tmp_path))
    assert list(rows["metrics.pooled.image_auroc"]) == [0.9, 0.8]
    assert rows["config.image_size"][0] == "[256, 256]"
    assert not [name for name in rows if name.startswith("training")]


def test_differences_pair_the_runs_of_one_seed_and_leave_out_single_ones():
    path = IMAGE["image AUROC"]
    runs = [a_record(variant="base", seed=seed, auroc=auroc) for seed, auroc in ((0, 0.8), (1, 0.9))]
    runs += [a_record(variant="other", seed=seed, auroc=auroc) for seed, auroc in ((1, 0.95), (2, 0.5))]
    found = differences(runs, "base", path)
    assert found == {"other": {1: pytest.approx(0.05)}}
