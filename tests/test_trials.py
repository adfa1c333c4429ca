"""Plans of many runs: what the files declare fits the package, and sharing work changes nothing."""

from dataclasses import asdict, replace

import pytest
import torch

from book import runs, trials
from book.__main__ import PLANS
from book.trials import HERE, Remembered, RememberedPixels, Stages, Trial, declared, run, without_path
from mssf_lite import MSSF, Config
from mssf_lite.data import open_dataset
from mssf_lite.data.textures import Counts
from mssf_lite.features import Pyramid
from mssf_lite.results import read_records

CONFIG = Config.profile("check", stages=("blocks.2",), zooms=(1.0, 0.5))


@pytest.fixture(scope="module")
def data():
    counts = Counts(train=4, held_out=2, test_good=2, test_defect_per_kind=1)
    return open_dataset("textures", textures=["wood"], counts=counts)


@pytest.fixture
def network():
    return Remembered(Pyramid(CONFIG.backbone, ("blocks.2", "blocks.3")))


@pytest.mark.parametrize("plan", [HERE / f"{name}.yml" for name in PLANS], ids=lambda plan: plan.stem)
def test_every_declared_variant_differs_from_the_others(plan):
    found = {}
    for trial in declared(plan):
        found.setdefault((trial.method, trial.config), set()).add(trial.variant)
    assert all(len(names) == 1 for names in found.values())


def test_ablations_look_at_both_splits_and_have_a_base_without_changes():
    found = declared(HERE / "ablations.yml")
    assert {trial.split for trial in found} == {"tile", "published"}
    base = {replace(t.config, seed=0) for t in found if t.variant == "as it is"}
    assert base == {Config.profile("full", epochs=2, siamese=True)}


def test_steps_lead_from_the_fine_profile_to_the_full_one():
    found = {t.variant: replace(t.config, seed=0) for t in declared(HERE / "steps.yml")}
    assert found["as it is"] == Config.profile("fine")
    assert found["the usual model"] == replace(Config.profile("full"), profile_name="fine")


def test_choice_of_the_light_profile_saw_no_world_of_another_table():
    plans = [declared(HERE / f"{name}.yml") for name in PLANS if name != "light"]
    others = {t.config.seed for plan in plans for t in plan if "textures" in t.dataset}
    others |= {run.seed for run in runs.declared() if "textures" in run.dataset}
    assert others.isdisjoint(t.config.seed for t in declared(HERE / "light.yml"))


def test_light_profile_is_chosen_beside_the_fine_one():
    found = {t.variant: replace(t.config, seed=0) for t in declared(HERE / "light.yml")}
    assert found["2 blocks of 192"] == Config.profile("light")
    assert found["the fine model"] == replace(Config.profile("fine"), profile_name="light")


def test_weight_files_are_given_by_network_and_recorded_by_name():
    files = {"resnet18.tv_in1k": "/some/where/file.pt"}
    (trial, *_) = [t for t in declared(HERE / "ablations.yml", files) if t.config.weights]
    assert trial.config.weights == "/some/where/file.pt"
    assert without_path(trial.config).weights == "file.pt"


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("trained: {a: {method: Magic, profile: full}}", "names 'Magic', not"),
        ("trained: {}\nrescored: {b: {of: a}}", "'b' reads 'a', which is not trained"),
    ],
)
def test_plans_that_cannot_be_run_are_refused(tmp_path, variants, message):
    (tmp_path / "plan.yml").write_text(f"splits: []\n{variants}")
    with pytest.raises(ValueError, match=message):
        declared(tmp_path / "plan.yml")


def test_remembered_network_answers_as_the_network_and_asks_it_once(network, monkeypatch):
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    direct = network.pyramid(images)
    first, again = network(images[:2]), network(images)
    for a, b, c in zip(first, again, direct, strict=True):
        torch.testing.assert_close(b, c, rtol=1e-2, atol=1e-2)  # half precision
        assert torch.equal(a, b[:2])
    monkeypatch.setattr(network, "pyramid", None)
    assert torch.equal(network(images[1:])[0], again[0][1:])


def test_memory_forgets_what_was_unused_longest(network):
    network.room = 2
    one, two, three = torch.rand(3, 3, 64, 64).split(1)
    for image in (one, two, one, three):
        network(image)
    kept = list(network.answers)
    network(one)
    network(three)
    assert list(network.answers) == kept  # both were there: nothing was added


def test_detector_on_some_remembered_stages_is_that_on_its_own_network(data, network):
    images = torch.stack(list(data.images(data.test, CONFIG.image_size)))
    own, shared = MSSF(CONFIG), MSSF(CONFIG, Stages(network, CONFIG.stages))
    assert own.state_dict().keys() - shared.state_dict().keys() == {
        key for key in own.state_dict() if key.startswith("pyramid.")
    }
    for a, b in zip(own.features(images), shared.features(images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_trials_are_recorded_once_and_rescored_without_training(data, network, tmp_path):
    def trial(variant, config, of=""):
        return Trial(variant, "MSSF", config, "textures", data.split, of)

    both = [trial("base", CONFIG), trial("flow alone", replace(CONFIG, score="nll", rings=1), of="base")]
    assert not any(t.has_record(data, tmp_path) for t in both)
    list(run(both, data, Stages(network, CONFIG.stages), tmp_path))
    assert all(t.has_record(data, tmp_path) for t in both)
    assert not trial("base", replace(CONFIG, blocks=1)).has_record(data, tmp_path)
    base, read = (read_records(tmp_path, variant=t.variant)[0] for t in both)
    assert base["training"] == read["training"]
    assert base["metrics"]["pooled"] != read["metrics"]["pooled"]


def test_a_trial_that_was_killed_goes_on_from_its_last_epoch(data, network, tmp_path, monkeypatch):
    config, done = replace(CONFIG, epochs=2), []

    def killed(detector, dataset, resume=None):
        images = (dataset.images(side, config.image_size) for side in (dataset.train, dataset.held_out))
        for epoch in detector.fit(*images, resume=resume):
            done.append(epoch)
            raise KeyboardInterrupt

    trial = Trial("longer", "MSSF", config, "textures", data.split)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trials, "fit", killed)
        list(run([trial], data, Stages(network, CONFIG.stages), tmp_path))
    assert len(list(tmp_path.glob("*.state"))) == 1
    list(run([trial], data, Stages(network, CONFIG.stages), tmp_path))
    (record,) = read_records(tmp_path)
    assert record["training"][0] == asdict(done[0]) and len(record["training"]) == 2
    assert not list(tmp_path.glob("*.state"))


def test_pixels_are_read_once_and_large_images_are_not_kept(data):
    class Counting:
        calls = 0

        def read(self, sample, size=None):
            self.calls += 1
            return data.reader.read(sample, size)

    counting = Counting()
    reader = RememberedPixels(counting, room=2)
    for sample in [*data.test[:3], *data.test[:3]]:
        for found, wanted in zip(reader.read(sample, (64, 64)), data.read(sample, (64, 64)), strict=True):
            assert torch.equal(found, wanted)
    assert counting.calls == 4  # the third did not fit
    reader.read(replace(data.test[0], split="train"), (64, 64))
    assert counting.calls == 4  # an image is the same on either side
    reader = RememberedPixels(counting)
    for _ in range(2):
        reader.read(data.test[0], (600, 600))
    assert counting.calls == 6


def test_shares_of_a_plan_are_all_of_it_and_no_trial_twice(monkeypatch, capsys, tmp_path):
    def absent(name, root, split, seed):
        raise FileNotFoundError("not here")

    monkeypatch.setattr(trials, "open_declared", absent)
    seen = []
    for part in ("1/1", "1/3", "2/3", "3/3"):
        assert trials.main("peers", part=part) == 0
        seen.append({line.split("] ")[1] for line in capsys.readouterr().out.splitlines()})
    assert seen[0] == seen[1] | seen[2] | seen[3] and sum(map(len, seen[1:])) == len(seen[0]) > 30
    with pytest.raises(ValueError, match="part '0/2' is none"):
        trials.main("peers", part="0/2")


def test_memory_is_asked_of_the_published_list_and_of_the_split_by_tile():
    found = declared(HERE / "memory.yml")
    assert {trial.split for trial in found} == {"tile", "published", "published-all"}
    assert all(trial.config.hindering == "none" for trial in found if trial.config.epochs > 4)
