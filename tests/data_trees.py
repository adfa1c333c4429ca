"""Tiny data sets in the official layouts, drawn by the tests that need them."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REAL = Path(os.environ.get("MSSF_DATA") or Path(__file__).parents[2] / "shared" / "data")
needs_real_mt = pytest.mark.skipif(
    not (REAL / "mt" / "MT_Free").is_dir(),
    reason="the real magnetic tiles are not here; set MSSF_DATA to have them",
)


def save(path: Path, shape=(12, 16), value: int | None = None, mask_box: tuple | None = None) -> Path:
    """A grey image: noise that depends on its name, or one value; or a mask with a white box (slices)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if mask_box is not None:
        pixels = np.zeros(shape, np.uint8)
        pixels[mask_box] = 255
    elif value is not None:
        pixels = np.full(shape, value, np.uint8)
    else:
        pixels = np.random.default_rng(sum(path.as_posix().encode())).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def mvtec_texture(folder: Path, train: int = 10, suffix: str = ".png") -> Path:
    """One texture in MVTec layout: ``train`` + 3 normals, 2 holes and 2 scratches with masks."""
    for i in range(train):
        save(folder / f"train/good/{i:03d}{suffix}")
    for i in range(3):
        save(folder / f"test/good/{i:03d}{suffix}")
    for kind in ("hole", "scratch"):
        for i in range(2):
            save(folder / f"test/{kind}/{i:03d}{suffix}")
            save(folder / f"ground_truth/{kind}/{i:03d}_mask.png", mask_box=np.s_[2 : 5 + i, 3:9])
    return folder


def magnetic_tiles(folder: Path) -> Path:
    """MT layout: 20 recordings of six normals, one that holds normals and a crack, one of breaks alone.

    Recordings start at frames 1000, 2000, ...; the mixed one at 21000, the breaks at 22000.
    """

    def tile(kind: str, exposure: int, frame: int, box) -> None:
        stem = folder / f"MT_{kind}/Imgs/exp{exposure}_num_{frame}"
        save(stem.with_suffix(".jpg"))
        save(stem.with_suffix(".png"), mask_box=box)

    nothing = np.s_[0:0, 0:0]
    for recording in range(1, 21):
        for exposure in range(1, 7):
            tile("Free", exposure, recording * 1000 + 20 * exposure, nothing)
    for exposure in range(1, 4):
        tile("Free", exposure, 21000 + 20 * exposure, nothing)
        tile("Crack", exposure, 21300 + 20 * exposure, np.s_[2:4, 3:9])
    tile("Break", 1, 22000, np.s_[0:3, 0:3])
    tile("Uneven", 2, 22020, nothing)  # labelled a defect, though its mask is empty
    return folder
