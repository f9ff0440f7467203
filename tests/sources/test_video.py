"""Video against FFmpeg's own frames, decoded from first to last; and what reaches for other files."""

from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import pytest

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Limits, Opening, Source, open_source
from segcore.sources.video import Decoder

HEIGHT, WIDTH, COUNT = 48, 64, 23


def drawn(count: int = COUNT) -> Any:
    """Frames (T, Y, X, 3) of which no two are alike."""
    rng = np.random.default_rng(8)
    frames = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(count):
        frames[t, ..., 0] = 10 * t
        frames[t, 10:30, 2 * t : 2 * t + 12, 1] = 200
        frames[t, :20, :20, 2] = rng.integers(0, 256, (20, 20))
    return frames


def encode(path: Path, frames: Any, codec: str, pixel_format: str = "yuv420p", **options: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.gop_size = 6
        if codec in ("libx264", "mpeg4"):
            stream.codec_context.max_b_frames = 2
        source_format = {"gray": "gray", "gray16le": "gray16le"}.get(pixel_format, "rgb24")
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, source_format)))
        container.mux(stream.encode(None))


def decoded(path: Path) -> Any:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def in_any_order(source: Source) -> Any:
    """All frames, read one by one in a random order."""
    frames = np.zeros(source.info.shape, source.info.dtype)
    for t in np.random.default_rng(1).permutation(len(frames)).tolist():
        frames[t] = source.read(Window((t, 0, 0, 0), (1, *source.info.shape[1:])))[0]
    return frames


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.mkv", "ffv1", "bgr0"),
        ("a.avi", "rawvideo", "bgr24"),
        ("b.mkv", "ffv1", "gray"),
        ("c.mkv", "ffv1", "gray16le"),
    ],
)
def test_lossless_frames_are_what_was_encoded(
    tmp_path: Path, assert_reads: Any, name: str, codec: str, pixel_format: str
) -> None:
    frames = drawn()
    if pixel_format.startswith("gray"):
        frames = frames[..., 2].astype(np.uint16) * 250 if pixel_format == "gray16le" else frames[..., 2].copy()
    encode(tmp_path / name, frames, codec, pixel_format)
    expected = np.moveaxis(frames, -1, 1) if frames.ndim == 4 else frames[:, np.newaxis]
    with open_source(str(tmp_path / name)) as source:
        assert (source.info.reader, source.info.axes) == ("video", ("t", "c", "y", "x"))
        assert (source.info.details["fps"], source.info.spacing) == (10.0, None)
        assert_reads(source, expected)
        np.testing.assert_array_equal(in_any_order(source), expected)


CODED = [
    ("a.mp4", "libx264", {}),
    ("a.mkv", "libx264", {"x264-params": "open-gop=1:keyint=6"}),
    ("a.mp4", "libx265", {"x265-params": "log-level=none:keyint=6:open-gop=1"}),
    ("a.mov", "mpeg4", {}),
    ("a.avi", "mpeg4", {}),
    ("a.avi", "mjpeg", {}),
    ("a.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "10"}),
    ("a.webm", "libvpx-vp9", {}),
]


@pytest.mark.parametrize(("name", "codec", "options"), CODED, ids=lambda value: str(value)[:10])
def test_frames_in_any_order_are_those_of_decoding_in_sequence(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    encode(tmp_path / name, drawn(), codec, "yuvj420p" if codec == "mjpeg" else "yuv420p", **options)
    expected = np.moveaxis(decoded(tmp_path / name), -1, 1)
    with open_source(str(tmp_path / name)) as source:
        assert source.info.shape == (COUNT, 3, HEIGHT, WIDTH)
        np.testing.assert_array_equal(in_any_order(source), expected)
        window = Window((5, 1, 7, 9), (9, 2, 20, 30))
        np.testing.assert_array_equal(source.read(window), expected[window.slices])


def test_a_frame_costs_one_group_of_pictures_and_the_next_one_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "a.mp4", drawn(), "libx264")
    decoded_frames: list[int] = []
    seek = Decoder._seek

    def counted(decoder: Decoder, index: int, key: int) -> None:
        seek(decoder, index, key)
        frames = decoder._frames
        decoder._frames = (decoded_frames.append(frame.pts) or frame for frame in frames)  # type: ignore[func-returns-value]

    monkeypatch.setattr(Decoder, "_seek", counted)
    with open_source(str(tmp_path / "a.mp4")) as source:
        for t, most in ((15, 6), (16, 1), (3, 6), (21, 6), (22, 1)):
            decoded_frames.clear()
            source.read(Window((t, 0, 0, 0), (1, 3, HEIGHT, WIDTH)))
            assert 1 <= len(decoded_frames) <= most, t


@pytest.mark.parametrize("turns", range(4))
def test_frames_are_turned_as_the_file_says(tmp_path: Path, assert_reads: Any, turns: int) -> None:
    path = tmp_path / "turned.mp4"
    encode(path, drawn(5), "libx264")
    upright = decoded(path)
    # The matrix of a track's header: 16.16 fixed point, a b u c d v x y w; this one turns with the clock.
    cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][turns]
    numbers = (cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30)
    data = bytearray(path.read_bytes())
    begin = data.index(b"tkhd") + 4 + 40
    data[begin : begin + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    path.write_bytes(data)
    with open_source(str(path)) as source:
        assert_reads(source, np.moveaxis(np.rot90(upright, -turns, axes=(1, 2)), -1, 1), num_windows=4)


def test_a_url_is_read_like_a_file(tmp_path: Path, assert_reads: Any) -> None:
    encode(tmp_path / "a.mkv", drawn(), "ffv1", "bgr0")
    fsspec.filesystem("memory").pipe("/videos/a.mkv", (tmp_path / "a.mkv").read_bytes())
    with open_source("memory://videos/a.mkv") as source:
        assert_reads(source, np.moveaxis(drawn(), -1, 1), num_windows=4)


def test_limits_come_before_decoding(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", drawn(), "libx264")
    for limits, said in (
        (Limits(max_pages=22), "more frames than the limit max_pages = 22"),
        (Limits(max_whole_px=3000), "frames of 64 x 48 px are over the limit max_whole_px = 3000"),
        (Limits(max_px=3000), "max_px = 3000; got 3072"),
    ):
        with pytest.raises(SourceError, match=said):
            open_source(str(tmp_path / "a.mp4"), Opening(limits=limits))


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{path}\n",
        "ffconcat version 1.0\nfile {path}\n",
        "RIFF\0\0\0\0AVI #EXTM3U\n#EXTINF:10,\nfile://{path}\n",
        "\x1a\x45\xdf\xa3 ffconcat version 1.0\nfile {path}\n",
    ],
    ids=["m3u8", "concat", "m3u8 as AVI", "concat as Matroska"],
)
def test_playlists_are_no_videos(tmp_path: Path, text: str) -> None:
    encode(tmp_path / "other.mkv", drawn(3), "ffv1", "bgr0")
    path = tmp_path / "list.mp4"
    path.write_bytes(text.format(path=tmp_path / "other.mkv").encode("latin-1"))
    with pytest.raises(SourceError) as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)


def test_a_cut_video_fails_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    encode(path, drawn(), "libx264", movflags="faststart")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(SourceError, match=r"cut\.mp4") as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"), [("a.mp4", "libx264", "yuv420p"), ("a.mkv", "ffv1", "bgr0")]
)
def test_damage_in_the_middle_is_named_and_the_rest_is_read(
    tmp_path: Path, name: str, codec: str, pixel_format: str
) -> None:
    path = tmp_path / name
    encode(path, drawn(), codec, pixel_format, **({"level": "3", "slicecrc": "1"} if codec == "ffv1" else {}))
    expected = np.moveaxis(decoded(path), -1, 1)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.is_keyframe][1]
    data = bytearray(path.read_bytes())
    data[packet.pos + 40 : packet.pos + packet.size] = bytes(packet.size - 40)
    path.write_bytes(data)
    shape, failed = (1, 3, HEIGHT, WIDTH), 0
    with open_source(str(path)) as source:
        assert source.info.shape[0] == COUNT
        for t in range(COUNT):
            window = Window((t, 0, 0, 0), shape)
            try:
                np.testing.assert_array_equal(source.read(window), expected[window.slices])
            except SourceError:
                failed += 1
    assert 0 < failed <= 12, "two groups of pictures, as they share frames"


def test_frames_that_are_lost_are_missed(tmp_path: Path) -> None:
    path = tmp_path / "cut.mkv"
    encode(path, drawn(), "ffv1", "bgr0")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"cut\.mkv: ends at .* s, its header says 2\.3 s"):
        open_source(str(path))
