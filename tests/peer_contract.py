"""What a trained peer of one grid owes its user, whichever it is."""

from dataclasses import replace

import torch
from weave import weave

from mssf_lite import load
from mssf_lite.loop import seeded

TRAIN, HELD_OUT, TEST = (weave(n, seed, 128, 128) for seed, n in enumerate((24, 8, 6)))


class PeerContract:
    """Tests of two fixtures: ``fitted``, a detector trained on TRAIN and its history, and ``detector``."""

    rtol = 1e-4  # how far rounding may move a score that is computed in another batch

    def test_two_seeded_runs_give_equal_scores_whatever_else_draws_and_another_seed_does_not(self, fitted):
        scores = {}
        for name, seed in (("again", 0), ("other", 5)):
            torch.manual_seed(len(name) + seed)  # the detector must not follow it
            detector = type(fitted[0])(replace(fitted[0].config, seed=seed))
            before = torch.random.get_rng_state()
            list(detector.fit(TRAIN, HELD_OUT))
            assert torch.equal(torch.random.get_rng_state(), before)  # nor disturb it
            scores[name] = detector.predict(TEST).scores
        wanted = fitted[0].predict(TEST).scores
        assert torch.equal(scores["again"], wanted)
        assert not torch.equal(scores["other"], wanted)

    def test_saved_and_loaded_gives_equal_maps_and_scores(self, detector, tmp_path):
        detector.save(tmp_path / "peer.safetensors")
        again = load(tmp_path / "peer.safetensors")
        assert type(again) is type(detector) and again.config == detector.config
        for a, b in zip(detector.predict(TEST), again.predict(TEST), strict=True):
            assert torch.equal(a, b)

    def test_a_planted_spot_scores_higher_and_is_found_where_it_is(self, detector):
        spoilt = TEST.clone()
        spoilt[:, :, 40:72, 72:104] = torch.rand(32, 32, generator=seeded(4)).round()
        clean, defect = detector.predict(TEST), detector.predict(spoilt)
        assert (defect.scores > clean.scores).all()
        y, x = divmod(int((defect.maps - clean.maps).mean(0).argmax()), 128)
        assert 32 <= y <= 80 and 64 <= x <= 112

    def test_score_of_an_image_does_not_depend_on_its_batch(self, detector):
        alone = torch.cat([detector.predict(image[None]).scores for image in TEST])
        torch.testing.assert_close(detector.predict(TEST).scores, alone, rtol=self.rtol, atol=1e-4)
