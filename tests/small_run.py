"""A training run of seconds, for tests that run it in processes of their own."""

import torch

from mssf_lite import MSSF, Config

CONFIG = Config.profile(
    "check", stages=("blocks.2",), image_size=(64, 64), batch=5, zooms=(1.0, 0.5), epochs=3, ramp=0.1
)
# Eleven are for training, in batches of 5, 5 and 1: of two processes one has no share of the last.
IMAGES = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def fit(resume=None, epochs=None, model=None):
    model = model or MSSF(CONFIG)
    history = []
    for progress in model.fit(IMAGES[:11], IMAGES[11:], resume=resume):
        history.append(progress)
        if len(history) == epochs:
            break
    return model, history
