import os

import numpy as np
import pytest
import torch
from data_trees import save
from PIL import Image
from scipy import ndimage

from mssf_lite.data import FileReader, Sample, read_image, read_mask, resize_mask

EIGHT = np.ones((3, 3))
RAMP = np.linspace(0, 255, 20 * 30).reshape(20, 30).astype(np.uint8)


def written(path, picture, **options):
    picture.save(path, **options)
    return path


def grey(image):
    """The one channel of a grey image, after a look that all three are equal."""
    assert image.shape[0] == 3 and image.dtype == torch.float32
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
    return image[0].numpy()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_grey_images_become_three_equal_channels_in_0_to_1(tmp_path, suffix):
    path = written(tmp_path / f"a.{suffix}", Image.fromarray(RAMP))
    np.testing.assert_allclose(grey(read_image(path)), RAMP / 255, atol=1e-6)


def test_rgb_channels_keep_their_order(tmp_path):
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 255, 51
    image = read_image(written(tmp_path / "a.png", Image.fromarray(pixels)))
    assert image.shape == (3, 4, 5) and image.is_contiguous()
    assert image[:, 1, 1].tolist() == pytest.approx([1, 0, 0.2])


def test_alpha_is_dropped_and_does_not_darken(tmp_path):
    clear = Image.fromarray(np.zeros_like(RAMP))
    la = Image.merge("LA", (Image.fromarray(RAMP), clear))
    np.testing.assert_allclose(grey(read_image(written(tmp_path / "la.png", la))), RAMP / 255, atol=1e-6)
    rgba = Image.merge("RGBA", (Image.fromarray(RAMP),) * 3 + (clear,))
    np.testing.assert_allclose(grey(read_image(written(tmp_path / "rgba.png", rgba))), RAMP / 255, atol=1e-6)


def test_palette_images_are_read_by_colour_not_by_index(tmp_path):
    indices = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    indices.putpalette([0, 0, 255, 255, 0, 0])
    for name, options in (("plain", {}), ("see-through", {"transparency": b"\x00\x80"})):
        image = read_image(written(tmp_path / f"{name}.png", indices, **options))
        assert image[:, 0, 0].tolist() == [0, 0, 1] and image[:, 0, 1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("size", [None, (20, 30)])
def test_16_bit_grey_keeps_its_range_and_its_fine_steps(tmp_path, suffix, size):
    values = (np.arange(600).reshape(20, 30) * 100).astype(np.uint16)
    image = read_image(written(tmp_path / f"a.{suffix}", Image.fromarray(values)), size)
    np.testing.assert_allclose(grey(image), values / 65535, atol=1e-6)


def test_16_bit_grey_of_the_other_byte_order_is_read_alike(tmp_path):
    values = (np.arange(600).reshape(20, 30) * 100).astype(">u2")
    raw = tmp_path / "a.pgm"  # big-endian by definition
    raw.write_bytes(b"P5 30 20 65535\n" + values.tobytes())
    np.testing.assert_allclose(grey(read_image(raw)), values / 65535, atol=1e-6)


def test_one_bit_images_are_black_and_white(tmp_path):
    path = written(tmp_path / "a.png", Image.fromarray(RAMP > 99))
    np.testing.assert_array_equal(grey(read_image(path)), RAMP > 99)


def test_cmyk_is_turned_to_rgb(tmp_path):
    path = written(tmp_path / "a.tif", Image.new("CMYK", (4, 3), (255, 0, 0, 0)))
    assert read_image(path)[:, 0, 0].tolist() == [0, 1, 1]  # cyan


def test_float_images_are_refused_because_their_range_is_unknown(tmp_path):
    path = written(tmp_path / "a.tif", Image.fromarray(np.full((4, 5), 0.3, np.float32)))
    with pytest.raises(ValueError, match=r"a\.tif: pixels of mode 'F'.*save as 8- or 16-bit"):
        read_image(path)


def test_a_camera_s_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, :8] = 255
    path = written(tmp_path / "a.png", Image.fromarray(pixels), exif=exif)
    image = grey(read_image(path))
    assert image.shape == (16, 8) and image[:8].min() == 1 and image[8:].max() == 0


def test_resizing_is_antialiased_and_takes_height_first(tmp_path):
    stripes = np.zeros((32, 64), np.uint8)
    stripes[:, ::2] = 255
    path = written(tmp_path / "a.png", Image.fromarray(stripes))
    image = grey(read_image(path, (8, 4)))
    assert image.shape == (8, 4)
    assert np.abs(image[:, 1:-1] - 0.5).max() < 0.02  # every other pixel taken would give 0 or 1


@pytest.mark.parametrize("size", [(0, 5), (4,), (4.0, 5.0)])
def test_an_impossible_size_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match="size must be"):
        read_image(save(tmp_path / "a.png"), size)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("keep", [0, 8, 0.5])
def test_broken_files_are_named_with_a_remedy(tmp_path, suffix, keep):
    path = save(tmp_path / f"broken.{suffix}", (64, 64))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep == 0.5 else keep])
    with pytest.raises(ValueError, match=rf"broken\.{suffix}: .*take it out of the folder"):
        read_image(path)


def test_files_that_are_no_images_are_named(tmp_path):
    (tmp_path / "note.png").write_text("this is a note, not an image")
    with pytest.raises(ValueError, match=r"note\.png: not an image"):
        read_image(tmp_path / "note.png")
    with pytest.raises(FileNotFoundError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"folder\.png"):
        read_image(tmp_path / "folder.png")


def test_a_mask_is_true_above_127(tmp_path):
    path = written(tmp_path / "m.png", Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)))
    mask = read_mask(path)
    assert mask.dtype == torch.bool and mask.tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, bool])
def test_a_mask_of_0_and_1_is_understood(tmp_path, kind):
    drawn = np.eye(4, dtype=kind)
    assert read_mask(written(tmp_path / "m.png", Image.fromarray(drawn))).tolist() == (drawn > 0).tolist()


def test_a_coloured_mask_counts_by_its_strongest_channel(tmp_path):
    red = np.zeros((2, 2, 3), np.uint8)
    red[0, 0] = 255, 0, 0  # its grey value would be 76
    assert read_mask(written(tmp_path / "m.png", Image.fromarray(red))).tolist() == [
        [True, False],
        [False, False],
    ]


@pytest.mark.parametrize(
    "kind, top, white", [(np.uint8, 3, 255), (np.uint8, 127, 255), (np.uint16, 255, 65535)]
)
def test_a_mask_of_unknown_scale_is_refused_and_not_read_as_empty(tmp_path, kind, top, white):
    path = written(tmp_path / "m.png", Image.fromarray(np.array([[0, top]], kind)))
    with pytest.raises(
        ValueError, match=rf"m\.png: .*from 0 to {top}, not black 0 and white {white}.*save the mask"
    ):
        read_mask(path)


def test_an_empty_mask_is_empty(tmp_path):
    assert not read_mask(save(tmp_path / "m.png", value=0), (5, 7)).any()


def test_resizing_by_a_whole_number_votes_by_area():
    mask = np.zeros((4, 8), bool)
    mask[:2, :2] = True  # fills one new pixel
    mask[0, 2] = mask[1, 2] = True  # half of the next
    assert resize_mask(mask, (2, 4)).tolist() == [[True, True, False, False], [False] * 4]
    assert (
        resize_mask(np.eye(2, dtype=bool), (4, 4)).tolist()
        == np.kron(np.eye(2), np.ones((2, 2))).astype(bool).tolist()
    )


@pytest.mark.parametrize("size", [(100, 100), (61, 83), (350, 290)])
def test_a_large_defect_keeps_its_area(size):
    y, x = np.mgrid[:256, :256]
    disc = (y - 120) ** 2 + (x - 140) ** 2 < 60**2
    assert resize_mask(disc, size).mean() == pytest.approx(disc.mean(), rel=0.02)


@pytest.mark.parametrize("size", [(16, 16), (60, 100), (37, 53), (250, 251)])
def test_a_thread_stays_in_one_piece_and_a_dot_survives(size):
    mask = np.zeros((256, 256), bool)
    steps = np.arange(200)
    mask[20 + steps // 3, 20 + steps] = True  # one pixel wide
    mask[200, 77] = True
    small = resize_mask(mask, size)
    assert ndimage.label(small, EIGHT)[1] == 2
    dot = small[int(150 / 256 * size[0]) :]
    assert 1 <= dot.sum() <= 4


def test_two_defects_that_lie_in_one_corner_do_not_wipe_each_other_out():
    mask = np.zeros((8, 8), bool)
    mask[0:4, 0:4] = True
    mask[2:, 7] = mask[7, :] = True  # a corner whose box overlaps the square
    assert resize_mask(mask, (4, 4)).astype(int).tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 1],
        [0, 0, 0, 1],
        [1, 1, 1, 1],
    ]


def test_a_mask_of_its_own_size_is_left_alone_and_not_shared():
    mask = np.eye(5, dtype=bool)
    same = resize_mask(mask, (5, 5))
    assert np.array_equal(same, mask)
    same[:] = False
    assert mask.any()


def test_a_reader_gives_an_empty_mask_for_normals_and_none_where_nobody_drew_one(tmp_path):
    save(tmp_path / "a.png"), save(tmp_path / "m.png", mask_box=np.s_[1:3, 1:3])
    reader = FileReader(tmp_path)
    image, mask = reader.read(Sample("a.png", "t", "good", "test", "a", "m.png"), (6, 8))
    assert image.shape == (3, 6, 8) and mask.shape == (6, 8) and not mask.any()
    assert reader.read(Sample("a.png", "t", "hole", "test", "a"))[1] is None
    assert reader.read(Sample("a.png", "t", "hole", "test", "a", "m.png"))[1].sum() == 4


def test_a_mask_of_another_size_than_its_image_is_refused_with_both_sizes(tmp_path):
    save(tmp_path / "a.png", (12, 16)), save(tmp_path / "m.png", (16, 12), mask_box=np.s_[1:3, 1:3])
    with pytest.raises(ValueError, match=r"m\.png: the mask is 16 x 12 .*a\.png 12 x 16"):
        FileReader(tmp_path).read(Sample("a.png", "t", "hole", "test", "a", "m.png"), (8, 8))


def test_several_masks_of_one_image_are_joined_before_they_are_resized(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "m1.png", mask_box=np.s_[1:3, 1:3]), save(tmp_path / "m2.png", mask_box=np.s_[2:5, 2:4])
    sample = Sample("a.png", "t", "hole", "test", "a", ("m1.png", "m2.png"))
    reader = FileReader(tmp_path)
    mask = reader.read(sample)[1]
    assert mask.sum() == 4 + 6 - 1 and mask[1, 1] and mask[4, 3] and mask.shape == (12, 16)
    assert torch.equal(reader.read(sample, (6, 8))[1], torch.from_numpy(resize_mask(mask.numpy(), (6, 8))))


def test_a_part_of_an_image_is_cut_before_it_is_resized(tmp_path):
    save(tmp_path / "a.png"), save(tmp_path / "m.png", mask_box=np.s_[1:3, 4:6])
    sample, reader = Sample("a.png", "t", "hole", "test", "a", "m.png"), FileReader(tmp_path)
    image, mask = reader.read(sample)
    part = sample.cut(1, 3, 6, 4)
    assert torch.equal(reader.read(part)[0], image[:, 1:7, 3:7])
    assert torch.equal(reader.read(part)[1], mask[1:7, 3:7]) and reader.read(part)[1].sum() == 4
    small = reader.read(part, (3, 2))
    assert small[0].shape == (3, 3, 2) and small[1].tolist() == [[True, True], [False, False], [False, False]]


@pytest.mark.parametrize("box", [(0, 0, 13, 4), (7, 0, 6, 4), (0, 13, 4, 4), (-1, 0, 4, 4)])
def test_a_part_outside_its_image_is_refused(tmp_path, box):
    save(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=r"a\.png#xywh=.*: a part outside its image of 12 x 16 \(height x width\)"
    ):
        FileReader(tmp_path).read(Sample("a.png", "t", "good", "train", "a").cut(*box))


def test_parts_of_one_image_decode_it_once_but_a_changed_file_again(tmp_path, monkeypatch):
    path, reader, opened = save(tmp_path / "a.png"), FileReader(tmp_path), []
    whole_file = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file) or whole_file(file))
    parts = [Sample("a.png", "t", "good", "train", "a").cut(0, left, 4, 4) for left in range(8)]
    for part in parts:
        reader.read(part)
    assert len(opened) == 1
    Image.fromarray(np.full((12, 16), 7, np.uint8)).save(path)
    os.utime(path, ns=(1, 1))
    assert reader.read(parts[0])[0].unique().tolist() == pytest.approx([7 / 255])
