"""The yardsticks against NumPy and scikit-learn."""

from dataclasses import replace

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from mssf_lite import MSSF, Config, NearestNeighbour, gaussian, gaussian_of

CONFIG = Config.profile("check", stages=("blocks.2", "blocks.3"), image_size=(64, 64), zooms=(1.0, 0.5))
NORMALS = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_nearest_neighbour_distances_are_those_of_scikit_learn():
    detector = NearestNeighbour(CONFIG)
    list(detector.fit(NORMALS, NORMALS[:4]))
    fused = detector.features(NORMALS[:2] * 0.5)
    for s, found in enumerate(detector.scale_maps(fused)):
        memory = detector.memories[s]
        rows = (fused[s].permute(0, 2, 3, 1).flatten(0, 2) - memory.mean) / memory.std
        reference = NearestNeighbors(n_neighbors=1).fit(memory.rows.numpy())
        distance = reference.kneighbors(rows.numpy())[0][:, 0] / rows.shape[1] ** 0.5
        np.testing.assert_allclose(found.flatten().numpy(), distance, rtol=1e-3, atol=2e-3)


def test_a_stored_location_is_its_own_nearest_neighbour():
    detector = NearestNeighbour(CONFIG)
    list(detector.fit(NORMALS, NORMALS[:4]))  # 16 images have 256 and 64 locations: nearly all are stored
    maps = detector.scale_maps(detector.features(NORMALS))
    assert maps[1].max() < 0.05  # features are stored in half precision
    assert detector.scale_maps(detector.features(1 - NORMALS * 0.2))[1].min() > 0.05


def test_gaussian_of_a_model_is_where_that_model_started():
    model = MSSF(replace(CONFIG, epochs=3, blocks=2))
    list(model.fit(NORMALS, NORMALS[:4]))
    alone = gaussian(CONFIG)
    list(alone.fit(NORMALS, NORMALS[:4]))
    start = gaussian_of(model, NORMALS[:4])
    torch.testing.assert_close(start.predict(NORMALS).scores, alone.predict(NORMALS).scores)
    assert not torch.allclose(start.predict(NORMALS).scores, model.predict(NORMALS).scores, atol=1e-3)


def test_nearest_neighbour_looks_at_a_bounded_number_of_training_images(monkeypatch):
    looked_at = []

    class Watched:
        def __len__(self):
            return len(NORMALS)

        def __getitem__(self, i):
            looked_at.append(i)
            return NORMALS[i]

    monkeypatch.setattr(NearestNeighbour, "read", 5)
    list(NearestNeighbour(CONFIG).fit(Watched(), NORMALS[:4]))
    assert len(set(looked_at)) == 5 and len(looked_at) == 5
