"""Every frame that is read is the frame that a decode from the start shows at that place."""

from __future__ import annotations

import re
import tracemalloc
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from helpers.numbered import corners, number, numbers, picture, truth, with_matrix, write
from transformers.video_utils import VideoMetadata, default_sample_indices_fn

from dycoke_lab.specimen.clips import CLIPS
from dycoke_lab.video import even_indices, files, pictures, read_video

CONTAINERS = (
    "mp4", "mov", "3gp", "3g2", "mkv", "webm", "avi", "ts", "m2ts", "mpg", "vob", "flv", "f4v", "wmv", "ogv",
    "nut", "mxf", "gxf", "ivf", "h264", "hevc", "m4v", "mjpeg", "m1v", "m2v", "drc", "gif", "apng", "wtv",
    "rm", "swf", "avif", "y4m", "ismv",
)  # fmt: skip
CODECS = {
    "h264": ("libx264", "yuv420p", {}),
    "h264, no B-frames": ("libx264", "yuv420p", {"bf": "0"}),
    "h264, open groups": ("libx264", "yuv420p", {"x264-params": "open-gop=1:keyint=24:bframes=3"}),
    "h264, no keyframes": ("libx264", "yuv420p", {"intra-refresh": "1"}),
    "hevc": ("libx265", "yuv420p", {"x265-params": "log-level=none"}),
    "mpeg4": ("mpeg4", "yuv420p", {"bf": "2"}),
    "mpeg2": ("mpeg2video", "yuv420p", {"bf": "2"}),
    "mpeg1": ("mpeg1video", "yuv420p", {"bf": "2"}),
    "vp8": ("libvpx", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "10"}),
    "vp9": ("libvpx-vp9", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "10", "deadline": "realtime"}),
    "av1": ("libsvtav1", "yuv420p", {"preset": "12"}),
    "mjpeg": ("mjpeg", "yuvj420p", {}),
    "wmv2": ("wmv2", "yuv420p", {}),
    "flv": ("flv", "yuv420p", {}),
    "ffv1": ("ffv1", "yuv420p", {}),
    "prores": ("prores", "yuv422p10le", {}),
    "png": ("png", "rgb24", {}),
    "rawvideo": ("rawvideo", "yuv420p", {}),
    "gif": ("gif", "rgb8", {}),
    "apng": ("apng", "rgb24", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_in_every_container_the_frames_asked_for_are_those_of_a_full_decode(codec, tmp_path):
    encoder, pix_fmt, options = CODECS[codec]
    tried = 0
    for container in CONTAINERS:
        path = tmp_path / f"numbered.{container}"
        try:
            write(path, 600, encoder, pix_fmt, options=options)
            shown, _ = truth(path)
        except (av.FFmpegError, ValueError, OverflowError, IndexError):
            continue  # not a codec for this container
        tried += bool(shown)
        for count in (2, 7, 23) if shown else ():
            video = read_video(path, frames=count)
            assert video.total == len(shown), (container, count)
            wanted = even_indices(len(shown), min(count, len(shown)))
            assert numbers(video) == [shown[n] for n in wanted], (container, count)
        path.unlink()
    assert tried


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
        ("a.mkv", "mpeg4", "yuv420p"),
    ],
)
def test_frames_are_chosen_as_transformers_chooses_them(tmp_path, monkeypatch, name, codec, pix_fmt):
    path = write(tmp_path / name, 60, codec, pix_fmt, rate=8, gop=12)
    about = VideoMetadata(total_num_frames=60, fps=8)
    assert numbers(read_video(path)) == list(range(60))
    for far in (250, 5):  # decoded through, and by seeking
        monkeypatch.setattr(files, "FAR", far)
        for count in (1, 7, 60):
            wanted = default_sample_indices_fn(about, num_frames=count)
            assert numbers(read_video(path, frames=count)) == list(wanted)
    if codec != "gif":  # its times are hundredths of a second, so that these are not even
        assert numbers(read_video(path, fps=2)) == list(default_sample_indices_fn(about, fps=2))
    assert len(read_video(path, frames=100).frames) == 60  # at most


def test_where_packets_tell_what_is_shown_frames_are_sought(tmp_path):
    assert files._listed(write(tmp_path / "a.mp4", 40)).keys
    assert files._listed(write(tmp_path / "a.mkv", 40)).keys
    for name in ("a.ts", "a.avi"):  # no index, or no times
        assert files._listed(write(tmp_path / name, 40)) is None
    assert files._listed(write(tmp_path / "b.mkv", 40, "libvpx")) is None  # has packets that show nothing


def test_what_was_listed_wrongly_is_decoded_whole(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", 400)
    listing = files._listed(path)
    listing.marks.insert(200, listing.marks[199] + 1)  # a frame too many
    listing.times.insert(200, listing.times[199])
    monkeypatch.setattr(files, "_listed", lambda _: listing)
    assert numbers(read_video(path, frames=3)) == even_indices(400, 3)


def cut_without_encoding(path, target, first, shift):
    """As `ffmpeg -ss ... -c copy` does: the packets before the cut are decoded, and not shown."""
    with (
        av.open(str(path)) as source,
        av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as out,
    ):
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if packet.dts is not None and number >= first:
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = copy
                out.mux(packet)
    return target


def test_a_file_that_was_trimmed_shows_what_is_left(tmp_path):
    path = write(tmp_path / "whole.mp4", 40, gop=20, bframes=0)
    cut = cut_without_encoding(path, tmp_path / "cut.mp4", 0, 12 * 512)
    assert numbers(read_video(cut)) == truth(cut)[0] == list(range(12, 40))
    assert numbers(read_video(cut, frames=4)) == [12, 19, 26, 33]


@pytest.mark.parametrize("container", ["mkv", "ts", "mp4"])
def test_a_file_that_begins_within_a_group_shows_what_can_be_decoded(tmp_path, container):
    path = write(tmp_path / "whole.mkv", 100, gop=20)
    cut = cut_without_encoding(path, tmp_path / f"cut.{container}", 7, 0)
    shown, _ = truth(cut)
    assert shown and numbers(read_video(cut)) == shown
    assert numbers(read_video(cut, frames=5)) == [shown[n] for n in even_indices(len(shown), 5)]


def test_times_that_begin_again_do_not_disturb_the_order(tmp_path):
    parts = [write(tmp_path / f"{start}.ts", 40, start=start, bframes=0).read_bytes() for start in (0, 100)]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    video = read_video(tmp_path / "both.ts")
    shown, _ = truth(tmp_path / "both.ts")
    assert numbers(video) == shown and {0, 39, 100, 139} <= set(shown)
    assert list(video.times) == sorted(video.times) and video.times[1] == pytest.approx(1 / 25)


def test_a_raw_stream_has_frames_and_no_times(tmp_path):
    video = read_video(write(tmp_path / "a.h264", 40, format="h264"))
    assert numbers(video) == list(range(40)) and list(video.times) == sorted(set(video.times))


def test_a_rate_takes_what_is_shown_at_its_times(tmp_path):
    times = [0, 10_000, *(20_000 + 50 * k for k in range(38))]  # two slides, then a film
    path = write(tmp_path / "slides.mp4", 40, times=times, rate=20)
    assert truth(path)[1] == pytest.approx([time / 1000 for time in times])
    video = read_video(path, fps=0.5)
    assert numbers(video) == [0] * 5 + [1] * 5 + [2]  # at 0, 2, ... 20 s
    assert video.times == pytest.approx([0] * 5 + [10] * 5 + [20])
    assert numbers(read_video(path, frames=4)) == [0, 10, 20, 30]  # by number
    even = write(tmp_path / "even.mp4", 50)
    assert numbers(read_video(even, fps=2)) == [0, 12, 25, 37]  # what is shown at .5 s is frame 12.5


MATRICES = {
    "as it is": ((1, 0, 0, 1), "RB.."),
    "to the right": ((0, 1, -1, 0), ".R.B"),
    "to the left": ((0, -1, 1, 0), "B.R."),
    "upside down, turned": ((-1, 0, 0, -1), "..BR"),
    "mirrored": ((-1, 0, 0, 1), "BR.."),
    "mirrored, upside down": ((1, 0, 0, -1), "..RB"),
    "on the diagonal": ((0, 1, 1, 0), "R.B."),
    "on the other diagonal": ((0, -1, -1, 0), ".B.R"),
}


@pytest.mark.parametrize("how", MATRICES)
def test_a_display_matrix_turns_and_mirrors(tmp_path, how):
    matrix, right = MATRICES[how]
    path = with_matrix(write(tmp_path / "a.mp4", 2, wide=96, options={"crf": "5"}), *matrix)
    frame = read_video(path).frames[0]
    assert corners(frame) == right
    assert frame.shape == ((96, 64, 3) if matrix[0] == 0 else (64, 96, 3))


@pytest.mark.parametrize(("aspect", "wide"), [("16/15", 85), ("3/4", 60), ("1/1", 80)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mpg"])
def test_pixels_become_square(tmp_path, name, aspect, wide):
    codec = "mpeg2video" if name.endswith("mpg") else "libx264"
    if codec == "mpeg2video" and aspect != "1/1":
        aspect, wide = "16/15", 85  # MPEG-2 knows some display aspects only: 80 x 64 as 4:3
    path = write(tmp_path / name, 3, codec, aspect=Fraction(aspect))
    assert read_video(path).frames.shape == (3, 64, wide, 3)


def test_transparent_parts_are_white(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as out:
        stream = out.add_stream("qtrle", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "argb"
        colours = np.zeros((16, 32, 4), np.uint8)
        colours[:, :16], colours[:, 16:] = (0, 255, 0, 0), (255, 0, 0, 255)  # green that cannot be seen; red
        out.mux(stream.encode(av.VideoFrame.from_ndarray(colours, format="rgba")))
        out.mux(stream.encode(None))
    frame = read_video(tmp_path / "a.mov").frames[0]
    assert (frame[:, :16] == 255).all() and (frame[:, 16:] == (255, 0, 0)).all()


def test_a_size_that_changes_is_named(tmp_path):
    parts = [write(tmp_path / f"{wide}.h264", 20, wide=wide, format="h264").read_bytes() for wide in (80, 96)]
    (tmp_path / "both.h264").write_bytes(b"".join(parts))
    with pytest.raises(ValueError, match=r"both\.h264.*frame 2\d is 96 x 64, the first one 80 x 64"):
        read_video(tmp_path / "both.h264")


def test_damaged_packets_are_told(tmp_path):
    path = write(tmp_path / "a.avi", 30, "png", "rgb24")
    data = bytearray(path.read_bytes())
    at = data.index(b"IHDR", len(data) // 2)
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"a\.avi.*1 packets are damaged; their frames are left out"):
        found = numbers(read_video(path))
    assert len(found) in (28, 29) and found == sorted(set(found))  # threads may lose the next one, too


def test_a_cut_end_shows_what_is_there(tmp_path):
    path = write(tmp_path / "a.ts", 200, bframes=0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    shown, _ = truth(path)
    assert 50 < len(shown) < 200 and numbers(read_video(path)) == shown
    cut = write(tmp_path / "a.mp4", 200, muxing={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    with pytest.warns(UserWarning, match=r"a\.mp4.*should have 200 frames, and 8\d are there"):
        video = read_video(cut)
    found = numbers(video)  # of the last frames one may be lost, where the next one is still whole
    assert found[:80] == list(range(80)) and found == sorted(set(found)) and len(found) <= 88
    assert found == [round(time * 25) for time in video.times]


def test_any_name_will_do(tmp_path):
    for name in ("12:30:00.mp4", "http:x.mp4", "a b'c\"%03d.mp4", "-i.mp4", "pipe:.mp4"):
        path = write(tmp_path / "a.mp4", 5).rename(tmp_path / name)
        assert numbers(read_video(path)) == list(range(5))


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", 30)
    monkeypatch.setattr(pictures, "free_memory", lambda: 20 * 80 * 64 * 3)
    with pytest.raises(
        ValueError, match=r"30 frames of 80 x 64 take .* GB, and .* GB are free: take fewer, by"
    ):
        read_video(path)
    assert len(read_video(path, frames=10).frames) == 10


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        read_video(tmp_path / "gone.mp4")
    with pytest.raises(ValueError, match="a folder without pictures"):
        read_video(tmp_path)
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    whole = (CLIPS / "constructed-2-scenes.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    for name in ("text.mp4", "empty.mp4", "cut.mp4"):
        with pytest.raises(ValueError, match=rf"{name}.*cannot be read as a video"):
            read_video(tmp_path / name)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    with pytest.raises(ValueError, match=r"sound\.wav.*holds no video"):
        read_video(tmp_path / "sound.wav")
    assert numbers(read_video(write(tmp_path / "one.mp4", 1), frames=8)) == [0]
    inf, nan = float("inf"), float("nan")
    for wrong in (
        {"frames": 0}, {"frames": 2.0}, {"frames": True}, {"fps": 0}, {"fps": inf}, {"fps": nan},
        {"rate": -1}, {"frames": 2, "fps": 1}, {"rate": 5},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(next(iter(wrong)))):
            read_video(CLIPS / "constructed-2-scenes.mp4", **wrong)


@pytest.mark.slow
def test_an_hour_takes_the_memory_of_the_frames_asked_for(tmp_path):
    path = write(tmp_path / "hour.mp4", 3600, rate=1, gop=60, wide=160, high=160)
    tracemalloc.start()
    video = read_video(path, frames=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * video.frames.nbytes < 3600 * 160 * 160
    assert numbers(video) == [n * 450 % 1024 for n in range(8)]


def test_a_picture_shows_its_number():
    assert [number(picture(n)) for n in (0, 1, 512, 1023)] == [0, 1, 512, 1023]
    assert corners(picture(5)) == "RB.."
