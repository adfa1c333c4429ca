import pytest
import torch
from data_trees import ksdd2, magnetic_tiles, mvtec_texture
from torch.utils.data import DataLoader

from mssf_lite.data import leaked, open_dataset, whole
from mssf_lite.data.textures import Counts

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the official")
FEW = Counts(train=2, held_out=1, test_good=1, test_defect_per_kind=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    home = tmp_path_factory.mktemp("data")
    magnetic_tiles(home / "mt"), ksdd2(home / "ksdd2")
    mvtec_texture(home / "mvtec" / "wood"), mvtec_texture(home / "mvtec" / "grid")
    mvtec_texture(home / "folder" / "wood")
    return home


def test_sets_join_into_one_with_their_names_in_front_of_everything(root):
    joined = open_dataset(["mt", "ksdd2", "textures"], root, counts=FEW)
    assert (joined.name, joined.split) == ("mt+ksdd2+textures", "tile+official+drawn")
    assert joined.textures[:3] == ("ksdd2", "mt", "textures/grid") and "textures/wood" in joined.textures
    for s in joined.samples:
        name = s.key.partition("/")[0]
        assert s.group.startswith(f"{name}/") and (s.texture == name or s.texture.startswith(f"{name}/"))
    parts = [open_dataset("mt", root), open_dataset("ksdd2", root), open_dataset("textures", counts=FEW)]
    for side in ("train", "held_out", "test"):
        assert len(getattr(joined, side)) == sum(len(getattr(part, side)) for part in parts)
    assert joined.notes == ("ksdd2: 3 defective training images are left out",)
    assert all(part.licence in joined.licence and part.citation in joined.citation for part in parts)
    assert leaked(joined) == 0 and not joined.leaks and joined.root is None


def test_every_sample_is_read_as_its_own_set_reads_it(root):
    joined = open_dataset(["mt", "ksdd2", "textures"], root, counts=FEW)
    for name, options in (("mt", {"root": root}), ("ksdd2", {"root": root}), ("textures", {"counts": FEW})):
        own = open_dataset(name, **options)
        theirs = [s for s in joined.test if s.key.startswith(f"{name}/")]
        assert [s.key for s in theirs] == [f"{name}/{s.key}" for s in own.test]
        for one, other in zip(theirs[::9], own.test[::9], strict=True):
            for a, b in zip(joined.read(one, (70, 64)), own.read(other, (70, 64)), strict=True):
                assert torch.equal(a, b)
            assert torch.equal(joined.ignored(one, (8, 8)), own.ignored(other, (8, 8)))
            assert torch.equal(joined.seen(one, (64, 64))[0], own.seen(other, (64, 64))[0])


def test_a_joined_set_batches_and_gives_masks(root):
    joined = open_dataset(["mvtec", "mt"], root, textures=["mvtec/wood", "mt"])
    batches = list(DataLoader(joined.images(joined.train, (16, 16)), batch_size=50))
    assert sum(len(batch) for batch in batches) == len(joined.train)
    assert joined.masks([s for s in joined.test if s.has_mask], (16, 16)).any()


def test_textures_of_one_name_do_not_collide(root):
    joined = open_dataset(["mvtec", "folder"], root, textures=["mvtec/wood", "folder"])
    assert joined.textures == ("folder/wood", "mvtec/wood")
    assert len({s.key for s in joined.samples}) == len(joined.samples) == 34


def test_a_part_of_an_image_is_read_in_company_too(root):
    joined = open_dataset(["mvtec", "mt"], root, textures=["mvtec/wood", "mt"])
    part = joined.train[0].cut(2, 3, 5, 7)
    assert torch.equal(joined.read(part)[0], joined.read(joined.train[0])[0][:, 2:7, 3:10])
    assert whole([part, part]) == (joined.train[0],)


def test_the_digest_knows_the_parts_and_their_seed(root):
    digests = [open_dataset(["mt", "ksdd2"], root, seed=seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] == open_dataset(["ksdd2", "mt"], root).digest  # a set of samples has no order


def test_textures_and_splits_can_be_chosen_for_each_set(root, monkeypatch):
    names = {path.name for path in (root / "mt").glob("MT_Free/Imgs/*.jpg") if "exp3" not in path.name}
    monkeypatch.setattr("mssf_lite.data.mt._published_names", lambda: names)
    joined = open_dataset(
        ["mt", "textures"], root, split={"mt": "published"}, textures=["mt", "textures/wood", "textures/knit"]
    )
    assert joined.split == "published+drawn" and joined.leaks and leaked(joined) == 21
    assert joined.textures == ("mt", "textures/knit", "textures/wood")


def test_each_set_may_have_a_root_of_its_own(root):
    apart = open_dataset(["mt", "folder"], {"mt": root / "mt", "folder": root / "mvtec"})
    assert apart.textures == ("folder/grid", "folder/wood", "mt")


def test_the_folder_of_the_environment_serves_all(root, monkeypatch):
    monkeypatch.setenv("MSSF_DATA", str(root))
    assert open_dataset(["mt", "ksdd2"]).digest == open_dataset(["mt", "ksdd2"], root).digest


def test_a_list_of_one_is_that_set_itself(root):
    alone = open_dataset("ksdd2", root)
    assert open_dataset(["ksdd2"], root) == alone
    assert open_dataset(["ksdd2"], {"ksdd2": root / "ksdd2"}, split={"ksdd2": "official"}) == alone


@pytest.mark.parametrize(
    "names, options, message",
    [
        ([], {}, "no data set is named; choose from textures, mvtec"),
        (
            ["mt", "silk"],
            {},
            "unknown data set 'silk'; choose one of textures, mvtec, ksdd2, mt, aitex, folder",
        ),
        (["mt", "mt"], {}, "a set stands twice in mt, mt"),
        (["mt", "ksdd2"], {"split": "tile"}, r"give a mapping, such as \{'mt': 'tile'\}"),
        (["mt", "ksdd2"], {"split": {"mt": "random"}}, "unknown split 'random' of 'mt'; choose one of tile"),
        (
            ["mt", "ksdd2"],
            {"split": {"aitex": "image"}},
            "split= names 'aitex', which is not among mt, ksdd2",
        ),
        (["mt", "ksdd2"], {"root": {"aitex": "."}}, "root= names 'aitex', which is not among mt, ksdd2"),
        (["mt", "ksdd2"], {"shuffle": 1}, "none of mt, ksdd2 has an option shuffle"),
        (
            ["mt", "textures"],
            {"textures": ["wood"]},
            "texture 'wood' is of none of mt, textures; name textures as",
        ),
        (["mt", "textures"], {"textures": ["mt"]}, "textures= names none of 'textures'; name some"),
        (["mt", "textures"], {"textures": ["mt", "textures/silk"]}, "unknown texture 'silk'"),
        (["folder", "textures"], {"root": {}}, "'folder' needs root="),
    ],
)
def test_what_cannot_be_joined_is_refused_with_the_remedy(root, names, options, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(names, **{"root": root, **options})
