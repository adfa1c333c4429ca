"""What the peers share: the loop around one loss, and windows over larger grids."""

import pytest
import torch
from torch import nn

from mssf_lite import load
from mssf_lite.config import Settings
from mssf_lite.peers import STMAE, UniAD
from mssf_lite.peers.peer import Peer, in_windows
from mssf_lite.scoring import Prediction

IMAGES = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CONFIG = Settings(image_size=(32, 32), stages=("blocks.0",), batch=4, epochs=3, learning_rate=0.05)


class MeanPeer(Peer):
    """Learns the mean of one stage's features; far from it is anomalous."""

    settings = Settings

    def __init__(self, config=CONFIG):
        super().__init__(config)
        self.model = nn.Conv2d(self.pyramid.channels[0], self.pyramid.channels[0], 1)
        nn.init.zeros_(self.model.weight)
        self.model.weight.requires_grad_(False)
        nn.init.zeros_(self.model.bias)

    def see(self, images):
        return self.pyramid(images)

    def loss(self, features, rng):
        return (self.model(features[0]) - features[0]).square().mean()

    def optimizer(self):
        optimizer = torch.optim.AdamW([self.model.bias], lr=self.config.learning_rate)
        return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1)

    def judge(self, features, size):
        distance = (self.model(features[0]) - features[0]).norm(dim=1, keepdim=True)
        maps = nn.functional.interpolate(distance, size)[:, 0]
        return Prediction(maps, maps.amax((1, 2)))

    def forget(self):
        nn.init.zeros_(self.model.bias)
        return self


@pytest.fixture(scope="module")
def peer():
    return MeanPeer()


def fit(peer, **options):
    return list(peer.fit(IMAGES[:8], IMAGES[8:], **options))


def test_a_peer_learns_by_its_loss_and_keeps_the_contract(tmp_path):
    peer = MeanPeer()
    with pytest.raises(RuntimeError, match="MeanPeer was not fitted"):
        peer.predict(IMAGES)
    history = fit(peer)
    assert [p.epoch for p in history] == [1, 2, 3]
    assert history[-1].loss < history[0].loss and history[-1].held_out_loss < history[0].held_out_loss
    prediction = peer.predict(IMAGES)
    assert prediction.maps.shape == (12, 32, 32) and prediction.scores.shape == (12,)
    peer.save(tmp_path / "peer.safetensors")
    assert torch.equal(load(tmp_path / "peer.safetensors").predict(IMAGES).scores, prediction.scores)


def test_training_and_what_prepares_it_see_the_features_of_the_images(monkeypatch, peer):
    seen = {"prepare": [], "loss": []}
    plain = MeanPeer.loss
    monkeypatch.setattr(MeanPeer, "prepare", lambda self, f: seen["prepare"].append(f[0].float()))
    monkeypatch.setattr(
        MeanPeer, "loss", lambda self, f, rng: (seen["loss"].append(f[0]), plain(self, f, rng))[1]
    )
    fit(peer)
    train, held_out = peer.features(IMAGES[:8])[0], peer.features(IMAGES[8:])[0]
    (prepared,), watched = seen["prepare"], seen["loss"][-1]  # held-out images are watched in their order
    torch.testing.assert_close(prepared, train, atol=1e-2, rtol=1e-3)  # kept in half precision
    torch.testing.assert_close(watched, held_out, atol=1e-2, rtol=1e-3)


def test_a_peer_refuses_to_learn_from_images_of_several_sizes(peer):
    with pytest.raises(ValueError, match="MeanPeer learns from images of one size"):
        next(peer.fit([IMAGES[0], torch.rand(3, 64, 32)], IMAGES))


@pytest.mark.parametrize("method", [UniAD, STMAE])
def test_a_peer_of_one_grid_refuses_to_learn_from_images_of_another(method):
    fixed = method(method.settings.profile("check"))
    with pytest.raises(ValueError, match=r"set image_size=\(128, 160\)"):
        next(fixed.fit(torch.rand(2, 3, 128, 160), torch.rand(2, 3, 128, 160)))


@pytest.mark.parametrize("empty", ["train", "held_out"])
def test_fitting_without_images_names_what_is_missing(empty, peer):
    images = {"train": IMAGES, "held_out": IMAGES} | {empty: IMAGES[:0]}
    with pytest.raises(ValueError, match=f"no {empty} images"):
        next(peer.fit(**images))


def test_images_that_cannot_be_judged_are_refused(peer):
    with pytest.raises(ValueError, match="divide by 255"):
        peer.features(IMAGES * 255)
    with pytest.raises(ValueError, match="too small: at least 32"):
        peer.features(IMAGES[..., :16])


def test_a_fit_that_was_left_is_not_a_fitted_peer(peer):
    fit(peer)
    assert peer.predict(IMAGES).scores.isfinite().all()
    next(peer.fit(IMAGES[:8], IMAGES[8:]))
    with pytest.raises(RuntimeError, match="was not fitted"):
        peer.predict(IMAGES)


def test_a_killed_run_goes_on_to_the_same_result(tmp_path, peer):
    whole = [p.loss for p in fit(peer.forget())]
    bias = peer.model.bias.clone()
    next(peer.forget().fit(IMAGES[:8], IMAGES[8:], resume=tmp_path / "state.pt"))
    assert (tmp_path / "state.pt").exists()
    assert [p.loss for p in fit(peer.forget(), resume=tmp_path / "state.pt")] == whole
    assert torch.equal(peer.model.bias, bias)
    assert not (tmp_path / "state.pt").exists()


def test_what_a_peer_does_not_say_is_named():
    peer = Peer(CONFIG)
    for call, method in (
        (lambda: peer.see(IMAGES), "see"),
        (lambda: peer.loss([], None), "loss"),
        (lambda: peer.optimizer(), "optimizer"),
        (lambda: peer.judge([], (32, 32)), "judge"),
    ):
        with pytest.raises(TypeError, match=rf"Peer does not say .*: give it {method}\(\)"):
            call()


def numbered(height, width):
    """(1, 1, H, W), every place with a number of its own."""
    return torch.arange(float(height * width)).view(1, 1, height, width)


@pytest.mark.parametrize("size", [(2, 3), (4, 9), (5, 7), (2, 4)])
def test_windows_leave_nothing_out_and_put_everything_back_in_its_place(size):
    x = torch.cat([numbered(*size), -numbered(*size)])
    torch.testing.assert_close(in_windows(lambda part: 2 * part + 1, x, (2, 3)), 2 * x + 1)


def test_the_last_window_of_a_row_ends_with_the_grid_and_overwrites_what_it_repeats():
    seen = []

    def corner(part):  # every place gets the number of its window's first place, in two channels
        seen.append(tuple(part.shape))
        return part[..., :1, :1].expand(part.shape).repeat(1, 2, 1, 1)

    out = in_windows(corner, numbered(2, 5), (2, 2))
    assert seen == [(1, 1, 2, 2)] * 3
    assert out.shape == (1, 2, 2, 5)
    assert out[0, 0].tolist() == out[0, 1].tolist() == [[0, 0, 2, 3, 3], [0, 0, 2, 3, 3]]


def test_windows_run_down_as_well_as_across():
    out = in_windows(lambda part: part[..., :1, :1].expand(part.shape), numbered(4, 4), (2, 2))
    assert out[0, 0].tolist() == [[0, 0, 2, 2], [0, 0, 2, 2], [8, 8, 10, 10], [8, 8, 10, 10]]


@pytest.mark.parametrize("size", [(1, 5), (5, 2)])
def test_a_grid_smaller_than_the_window_is_refused(size):
    with pytest.raises(ValueError, match=r"smaller than the one that was trained, \(2, 3\): enlarge"):
        in_windows(lambda part: part, numbered(*size), (2, 3))
