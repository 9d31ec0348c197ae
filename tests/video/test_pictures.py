"""Pictures, folders of them, and arrays: as they are to be shown, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.numbered import number, numbers, picture
from PIL import Image, ImageOps

from dycoke_lab.video import read_video

RAMP = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))


def test_folders_and_arrays(tmp_path):
    video = np.random.default_rng(0).integers(0, 256, (11, 8, 12, 3), np.uint8)
    for place, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / f"frame-{place}.png")  # 10 comes after 9, not after 1
    (tmp_path / "notes.txt").write_text("not a picture")
    assert (read_video(tmp_path).frames == video).all()
    assert (read_video(tmp_path, frames=4).frames == video[[0, 2, 5, 8]]).all()
    assert (read_video(video, frames=4).frames == video[[0, 2, 5, 8]]).all()
    assert (read_video(torch.from_numpy(video)).frames == video).all()
    Image.fromarray(video[0, :4]).save(tmp_path / "frame-11.png")
    with pytest.raises(ValueError, match=r"frame-11\.png is 12 x 4, the first picture 12 x 8"):
        read_video(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "array"])
def test_the_rate_of_what_has_no_times_can_be_told(tmp_path, kind):
    video = np.stack([picture(n) for n in range(20)])
    for place, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / f"{place}.png")
    source = tmp_path if kind == "folder" else video
    with pytest.raises(ValueError, match="fps=2 needs to know when frames are shown: give rate="):
        read_video(source, fps=2)
    assert read_video(source).fps is None
    found = read_video(source, fps=2, rate=8.0)
    assert numbers(found) == [0, 4, 8, 12, 16] and found.fps == 8.0
    assert found.metadata.timestamps == [0, 0.5, 1, 1.5, 2]


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 8, 8)), np.zeros((2, 8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8), 7]
)
def test_an_array_that_is_no_video_is_refused(wrong):
    with pytest.raises(
        ValueError, match=r"shape .* and type .*: an array must be \(frames, height, width, 3\)"
    ):
        read_video(wrong)


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_to_8(tmp_path, kind):
    Image.fromarray(RAMP).save(tmp_path / f"a.{kind}")
    frame = read_video(tmp_path).frames[0]
    assert (frame == np.rint(RAMP / 65535 * 255)[..., None]).all()


def test_floats_from_0_to_1_are_scaled_and_others_refused(tmp_path):
    values = (RAMP / 65535).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert (read_video(tmp_path).frames[0] == np.rint(values * 255)[..., None]).all()
    for wrong in (values * 255, values - 1, np.full_like(values, np.nan)):
        Image.fromarray(wrong).save(tmp_path / "a.tif")
        with pytest.raises(ValueError, match=r"a\.tif.*floats must be from 0 to 1"):
            read_video(tmp_path)
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif.*integers must be from 0 to 65535"):
        read_video(tmp_path)


def test_transparent_parts_are_white(tmp_path):
    colours = np.zeros((48, 64, 4), np.uint8)
    colours[..., :3], colours[10:30, 10:30] = (
        (0, 255, 0),
        (255, 0, 0, 255),
    )  # green, which cannot be seen; red
    colours[40:, :, 3] = 128
    Image.fromarray(colours).save(tmp_path / "a.png")
    for source in (tmp_path, tmp_path / "a.png"):
        frame = read_video(source).frames[0]
        assert frame[0, 0].tolist() == [255, 255, 255] and frame[15, 15].tolist() == [255, 0, 0]
        assert frame[45, 0].tolist() == [127, 255, 127]
    indexed = Image.fromarray(colours[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    indexed.save(tmp_path / "a.png", transparency=indexed.getpixel((0, 0)))
    assert read_video(tmp_path).frames[0, 0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LA", "RGBA"])
def test_other_kinds_of_pictures_are_what_pillow_makes_of_them(tmp_path, mode):
    whole = Image.fromarray(picture(3)).convert(mode)
    kind = "tif" if mode in ("CMYK", "YCbCr") else "png"
    whole.save(tmp_path / f"a.{kind}")
    frame = read_video(tmp_path).frames[0]
    with Image.open(tmp_path / f"a.{kind}") as opened:
        assert (frame == np.asarray(opened.convert("RGB"))).all() and number(frame) == 3


def test_pictures_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turned to the right
    Image.fromarray(picture(0)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as opened:
        right = np.asarray(ImageOps.exif_transpose(opened))
    for source in (tmp_path, tmp_path / "a.jpg"):
        assert (read_video(source).frames[0] == right).all() and right.shape == (80, 64, 3)


def test_what_lies_beside_the_pictures_does_not_matter(tmp_path):
    for place in range(3):
        Image.fromarray(picture(place)).save(tmp_path / f"f{place}.png")
        (tmp_path / f"._f{place}.png").write_bytes(b"\x00\x05\x16\x07" + bytes(100))  # left by a Mac
    (tmp_path / "labels.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4\n")
    (tmp_path / "sound.mpg").write_bytes(b"\x00\x00\x01\xb3" + bytes(100))
    (tmp_path / "f9.png").mkdir()
    assert numbers(read_video(tmp_path)) == [0, 1, 2]


def test_numbers_in_names_decide_the_order(tmp_path):
    names = ["1.png", "2.png", "01b.png", "10.png", "frame1.5.png", "frame2.png", "frame10.png", "IMG_²3.png"]
    for name in names:
        Image.fromarray(picture(names.index(name))).save(tmp_path / name)
    found = numbers(read_video(tmp_path))
    assert sorted(found) == list(range(8))
    assert [n for n in found if n in (0, 1, 3)] == [0, 1, 3] and [n for n in found if n in (4, 5, 6)] == [
        4,
        5,
        6,
    ]


def test_what_cannot_be_read_is_named(tmp_path):
    for place in range(3):
        noise = np.random.default_rng(place).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"f{place}.jpg")
    whole = (tmp_path / "f1.jpg").read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:10], b"", b"not a picture"):
        (tmp_path / "f1.jpg").write_bytes(broken)
        for source in (tmp_path, tmp_path / "f1.jpg"):
            with pytest.raises(ValueError, match=r"f1\.jpg.*cannot be read as a picture"):
                read_video(source)
    (tmp_path / "f1.jpg").unlink()
    Image.new("1", (14_000, 14_000)).save(tmp_path / "f1.png")
    with pytest.raises(ValueError, match=r"f1\.png.* has more than 178 million pixels: scale it down"):
        read_video(tmp_path)


def test_an_animation_is_a_video_of_its_own(tmp_path):
    still, *others = [Image.fromarray(picture(n)) for n in range(5)]
    still.save(tmp_path / "a.gif", save_all=True, append_images=others)
    assert numbers(read_video(tmp_path / "a.gif")) == list(range(5))
    with pytest.raises(ValueError, match=r"a\.gif.* has 5 pictures: give the file itself"):
        read_video(tmp_path)
