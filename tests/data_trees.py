"""Tiny data sets in the official layouts, drawn by the tests that need them."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REAL = Path(os.environ.get("MSSF_DATA") or Path(__file__).parents[2] / "shared" / "data")
needs_real_aitex = pytest.mark.skipif(
    not (REAL / "aitex" / "Defect_images").is_dir(),
    reason="the real AITEX fabrics are not here; set MSSF_DATA to have them",
)
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


def ksdd2(folder: Path) -> Path:
    """KSDD2 layout: train 20 normals and 3 defects, test 5 and 2; sizes differ by a few pixels."""
    number = 10000
    for part, normals, defects in (("train", 20, 3), ("test", 5, 2)):
        for i in range(normals + defects):
            shape, number = (63 + i % 3, 23), number + 1
            save(folder / part / f"{number}.png", shape)
            box = np.s_[0:0, 0:0] if i < normals else np.s_[10:15, 3:9]
            save(folder / part / f"{number}_GT.png", shape, mask_box=box)
    return folder


def cloth(name: str, end: str = "white", first: int = 700, width: int = 4096) -> np.ndarray:
    """A woven picture (256, width) whose columns before ``first`` show white, a table, or "none" of it."""
    rng = np.random.default_rng(sum(name.encode()))
    column, row = np.arange(width), np.arange(256)[:, None]
    noise = np.tile(rng.normal(0, 6, (256, 512)), (1, 8))[:, :width]  # repeated: quick to draw and to pack
    weave = 110 + 25 * np.sin(column % 512 * 2.1 + row * 0.3) + noise
    if end == "white":
        ragged = column < first - rng.integers(0, 9, (256, 1))  # threads stick out by up to 8 columns
        weave[ragged] = 255
    elif end == "table":
        table = 150 + 8 * np.sin(column / 70) + 12 * np.sin(row / 9) + noise
        weave = np.where(column < first, table, weave)
    return weave.clip(0, 255).astype(np.uint8)


def aitex(folder: Path) -> Path:
    """AITEX layout with all its oddities: fabrics 00 (white end), 04 (table), 05 (no defects), and 08.

    Normals: 10 of 00, 6 of 04, 5 of 05. Defects: two of 00, three of 04, one of 08; one short, unused of 05.
    """

    def write(path: str, pixels: np.ndarray, mode: str = "L") -> None:
        picture = Image.fromarray(pixels)
        if mode == "LA":  # an alpha that would be noticed, were it taken for the picture
            picture = Image.merge("LA", (picture, Image.fromarray(255 - pixels)))
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / path, compress_level=1)

    def mask(stem: str, *columns: int, mode: str = "L", width: int = 4096) -> None:
        pixels = np.zeros((256, width), np.uint8)
        for column in columns:
            pixels[100:110, column : column + 10] = 255
        write(f"Mask_images/{stem}.png", pixels, mode)

    for fabric, count, end, place in (
        ("00", 10, "white", "2311694-2040n7u"),
        ("04", 6, "table", "2311517-195063u"),
        ("05", 5, "none", "2306881-210020u"),
    ):
        for i in range(1, count + 1):
            name = f"{i:04d}_{'00' if (fabric, i) == ('00', 3) else '000'}_{fabric}"  # one name lacks a digit
            mode = "LA" if i == 2 else "L"
            write(f"NODefect_images/{place}/{name}.png", cloth(name, end), mode)
    for name, end, mode in (
        ("0001_002_00", "white", "L"),
        ("0062_022_00", "table", "LA"),
        ("0044_019_04", "table", "L"),
        ("0106_010_04", "table", "L"),
        ("0082_030_04", "table", "L"),
        ("0100_025_08", "white", "L"),
    ):
        write(f"Defect_images/{name}.png", cloth(name, end), mode)
    write("Defect_images/unused/0094_027_05.png", cloth("0094", "none", width=3796), "LA")
    mask("0094_027_05_mask", 397, mode="LA", width=3796)
    mask("0001_002_00_mask", 3000)
    mask("0062_022_00_mask", 1000, mode="LA")
    mask("0044_019_04_mask1", 1000)
    mask("0044_019_04_mask2", 1100, 1005)
    mask("0106_010_04_mask")  # drawn, but empty
    return folder  # 0082_030_04 and 0100_025_08 have no mask
