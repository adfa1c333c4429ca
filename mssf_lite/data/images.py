"""Pixels from files: images in [0, 1], masks as booleans, errors that name the file.

Three choices are ours and hold for every data set of files:

* *Alpha is dropped, not blended.* The colour under it is what the camera saw; blending would invent a
  background.
* *16-bit grey is divided by 65535*, the range of its format, never by its own maximum: a dark image stays
  dark.
* *A resized mask keeps its area, and every piece of a defect survives.* Nearest-neighbour scaling loses
  threads, keeping each touched pixel makes every defect fat; ``resize_mask`` says what is done instead.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from scipy import ndimage
from torch import Tensor

from .samples import Sample, Size

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
STEP = 32  # pixels between two places of the deepest stages
REMEDY = "open it in an image viewer; then copy or download it again, or take it out of the folder"
_EIGHT = np.ones((3, 3), dtype=bool)  # diagonal neighbours belong to one defect


def read_image(path: str | Path, size: Size | None = None) -> Tensor:
    """Read an image file.

    Grey, grey with alpha, RGB, RGBA, palette, CMYK and 16-bit grey are welcome; grey becomes three equal
    channels, alpha is dropped, CMYK is turned to RGB without a colour profile. A camera's EXIF rotation is
    applied. Of a file with several pages the first is read.

    Args:
        path: the file.
        size: (H, W) to resize to (bilinear, antialiased); None keeps the image's own.

    Returns:
        (3, H, W) float32 in [0, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is empty, cut off, corrupt, no image, or of a kind whose range is unknown.
    """
    return _to_tensor(decode(path), size)


def read_mask(path: str | Path, size: Size | None = None) -> Tensor:
    """Read a mask file: black is normal, white (above 127 of 255, or above half of 65535) is defect.

    A mask of 0 and 1 is understood too. Of a coloured mask the strongest channel counts; alpha is dropped.

    Args:
        path: the file.
        size: (H, W) to resize to, as ``resize_mask`` does; None keeps the mask's own.

    Returns:
        (H, W) bool.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read, or its values are neither 0..255 nor 0 and 1.
    """
    return _to_mask(decode(path), path, size)


def resize_mask(mask: np.ndarray, size: Size) -> np.ndarray:
    """Resize a mask so that areas stay true and no piece of a defect is lost or falls apart.

    A pixel of the result is True where a defect covers at least half of it. A region (8-connected) that would
    vanish or break into pieces that way, such as a thin scratch or a dot, gets the highest share of 0.4, 0.3,
    0.2, 0.1 or "touched at all" that leaves it in one piece. Where a defect is large this is plain area
    voting, without bias; where it is thin it is drawn a little fat rather than lost.

    Args:
        mask: (h, w) bool.
        size: (H, W).

    Returns:
        (H, W) bool.
    """
    if mask.shape == tuple(size):
        return mask.copy()
    rows, columns = (_overlap(old, new) for old, new in zip(mask.shape, size, strict=True))
    result = np.zeros(size, dtype=bool)
    labels, _ = ndimage.label(mask, _EIGHT)
    for number, (high, wide) in enumerate(ndimage.find_objects(labels), start=1):
        region = labels[high, wide] == number
        down, across = (np.flatnonzero(m.any(axis=1)) for m in (rows[:, high], columns[:, wide]))
        place = slice(down[0], down[-1] + 1), slice(across[0], across[-1] + 1)  # the new pixels it touches
        share = rows[place[0], high] @ region @ columns[place[1], wide].T  # of each, what the region covers
        for least in (0.5, 0.4, 0.3, 0.2, 0.1, 2e-9):
            kept = share > least - 1e-9  # an exact half must not depend on rounding
            if ndimage.label(kept, _EIGHT)[1] == 1:
                break
        result[place] |= kept
    return result


@dataclass(frozen=True)
class FileReader:
    """Reads samples whose files and masks are paths relative to a folder; of several masks, their union.

    Args:
        root: that folder.
    """

    root: Path

    def read(self, sample: Sample, size: Size | None = None) -> tuple[Tensor, Tensor | None]:
        """The image (3, H, W) and its mask (H, W): all False for a normal image, None where none is known.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file cannot be read, the mask is not as large as its image, or a part of an image
                lies outside it.
        """
        whole = _open(self.root / sample.file, sample)
        box = sample.crop or (0, 0, whole.height, whole.width)
        top, left, bottom, right = box[0], box[1], box[0] + box[2], box[1] + box[3]
        if min(box) < 0 or bottom > whole.height or right > whole.width:
            raise ValueError(
                f"{sample.key}: a part outside its image of {whole.height} x {whole.width} (height x width); "
                "cut it from the image as it is"
            )
        image = _to_tensor(whole.crop((left, top, right, bottom)) if sample.crop else whole, size)
        if not sample.is_defect:
            return image, torch.zeros(image.shape[1:], dtype=torch.bool)
        if sample.mask is None:
            return image, None
        mask = np.zeros((whole.height, whole.width), dtype=bool)
        for name in (sample.mask,) if isinstance(sample.mask, str) else sample.mask:
            path = self.root / name
            drawn = _open(path, sample)
            if drawn.size != whole.size:
                raise ValueError(
                    f"{path}: the mask is {drawn.height} x {drawn.width} (height x width), its image "
                    f"{sample.file} {whole.height} x {whole.width}; it must lie pixel on pixel: draw it again"
                )
            mask |= _to_mask(drawn, path, None).numpy()
        mask = mask[top:bottom, left:right]
        return image, torch.from_numpy(mask.copy() if size is None else resize_mask(mask, size))


@dataclass(frozen=True)
class ShapeReader(FileReader):
    """Reads samples from files, and shows all images of a texture to detectors in one shape with its aspect.

    Args:
        root: see :class:`FileReader`.
        aspects: texture -> height by width of its images, about.
    """

    aspects: Mapping[str, float]

    def seen_at(self, sample: Sample, size: Size) -> Size:
        """The shorter side as ``size`` has it, the longer in whole steps of 32 pixels; see ``Dataset.seen``.

        A ``size`` that is no square was chosen for these images, and is taken as it is.
        """
        if size[0] != size[1]:
            return size
        aspect, short = self.aspects[sample.texture], size[0]
        long = max(short, STEP * round(short * max(aspect, 1 / aspect) / STEP))
        return (long, short) if aspect > 1 else (short, long)


def _open(path: Path, sample: Sample) -> Image.Image:
    """A file of the sample, decoded; where samples are parts of it, it is decoded once for the next ones."""
    if sample.crop is None:
        return decode(path)
    with _named(path):
        changed = path.stat().st_mtime_ns
    return _decode_once(path, changed)


@lru_cache(maxsize=2)
def _decode_once(path: Path, changed: int) -> Image.Image:
    """As ``decode``, for a file that last changed at that time."""
    return decode(path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside names the file and what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; is the data folder complete and right?") from error
    except PermissionError as error:
        raise PermissionError(f"{path}: may not be read; check who owns it and its permissions") from error
    except MemoryError:
        raise  # says nothing about the file
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image in a format that can be read; {REMEDY}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: too large to be read safely ({error}); cut it into tiles first") from error
    except Exception as error:  # decoders fail as OSError, SyntaxError, zlib.error, struct.error ...
        raise ValueError(f"{path}: cut off or corrupt ({error}); {REMEDY}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file of which only the head has been read."""
    with _named(path):
        empty = path.stat().st_size == 0
    if empty:
        raise ValueError(f"{path}: an empty file (0 bytes); {REMEDY}")
    with _named(path), Image.open(path) as file:
        yield file


def shape_of(path: Path) -> Size:
    """(height, width) of an image file, upright; only its head is read."""
    with _opened(path) as file:
        lies = file.getexif().get(ExifTags.Base.Orientation, 1) > 4  # a camera was held on its side
        return file.size if lies else file.size[::-1]


def decode(path: str | Path) -> Image.Image:
    """The decoded picture, upright, in a mode of known range: L, RGB, I;16 (grey), or 1."""
    with _opened(path := Path(path)) as file:
        kind = file.format
        picture = ImageOps.exif_transpose(file)
        picture.load()
    mode = picture.mode
    if mode in ("1", "L", "RGB", "I;16"):
        return picture
    if mode in ("LA", "La"):
        return picture.getchannel("L")
    if mode.startswith("I;16") or (mode == "I" and kind in ("PNG", "PPM")):  # other byte order; 16 bits in 32
        return Image.fromarray(np.asarray(picture).astype(np.uint16))
    if mode in ("I", "F"):
        raise ValueError(
            f"{path}: pixels of mode {mode!r} (32 bits) have no known range; save as 8- or 16-bit grey or RGB"
        )
    with _named(path):
        if "transparency" in picture.info:  # of a palette; Pillow wants it spelt out before it is dropped
            picture = picture.convert("RGBA")
        return picture.convert("RGB")  # palette, RGBA, CMYK, YCbCr ...


def _check(size: Size) -> None:
    if len(size) != 2 or not all(isinstance(n, int | np.integer) and n > 0 for n in size):
        raise ValueError(f"size must be (height, width) in whole pixels, both above 0; got {size!r}")


def _to_tensor(picture: Image.Image, size: Size | None) -> Tensor:
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode == "I;16":  # Pillow resizes floats, but not 16-bit integers, with antialiasing
        picture = Image.fromarray(np.asarray(picture, dtype=np.float32) / 65535)
    if size is not None:
        _check(size)
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.array(picture, dtype=np.float32)
    if picture.mode != "F":
        pixels /= 255
    if pixels.ndim == 2:
        return torch.from_numpy(pixels).expand(3, -1, -1).contiguous()
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _to_mask(picture: Image.Image, path: str | Path, size: Size | None) -> Tensor:
    values = np.asarray(picture)
    if values.ndim == 3:
        values = values.max(axis=2)
    if values.dtype != bool:
        white, top = 65535 if values.dtype == np.uint16 else 255, int(values.max())
        if 1 < top <= white // 2:  # would silently be read as "no defect"
            raise ValueError(
                f"{path}: the mask's values run from {values.min()} to {top}, not black 0 and white {white}, "
                "nor 0 and 1; save the mask again with white where the defect is"
            )
        values = values == 1 if top == 1 else values > white // 2
    if size is not None:
        _check(size)
        values = resize_mask(values, size)
    return torch.from_numpy(np.array(values))  # a copy: decoded pictures are read-only


def _overlap(old: int, new: int) -> np.ndarray:
    """(new, old): the share of each new pixel that each old one covers, along one axis; rows add up to 1."""
    edges = np.arange(new + 1) * (old / new)
    low = np.maximum(edges[:-1, None], np.arange(old))
    high = np.minimum(edges[1:, None], np.arange(old) + 1)
    return np.maximum(high - low, 0) * (new / old)
