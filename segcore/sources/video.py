"""Video: MP4, MOV, AVI, Matroska and WebM as (T,C,Y,X), through FFmpeg (PyAV); a frame costs one group of pictures.

    packets (one pass, nothing decoded) --> the time of every frame, and of every key frame
    frame t --> from the key frame before it, decode up to its time

The container is named to FFmpeg by what the file begins with, so that no playlist is taken for one, and nothing but the
file's own bytes can be opened.
"""

import bisect
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any, NoReturn

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources.base import (
    Format,
    Limits,
    Opening,
    Pixels,
    Reader,
    Source,
    SourceInfo,
    check_shape,
    default_channels,
)
from segcore.sources.files import SourceFile

AXES = ("t", "c", "y", "x")

CODECS = (
    *("av1", "h263", "h264", "hevc", "libaom-av1", "libdav1d", "libvpx", "libvpx-vp9", "mpeg1video", "mpeg2video"),
    *("mpeg4", "msmpeg4", "msmpeg4v2", "vp8", "vp9", "wmv1", "wmv2"),
    *("dnxhd", "dvvideo", "ffv1", "ffvhuff", "huffyuv", "magicyuv", "mjpeg", "png", "prores", "qtrle", "rawvideo"),
    *("cinepak", "flv", "msrle", "msvideo1", "utvideo"),
)
"""FFmpeg's decoders that may run."""

HIDING = ("vp8", "mpeg4", "msmpeg4")
"""Codecs whose packets can hold no frame, or two (the latter in AVI): only decoding tells how many there are."""

PLAIN_FORMATS = {"gray": ("gray", 1, "uint8"), "gray16le": ("gray16le", 1, "uint16")}
"""Pixel formats that are kept: FFmpeg's name, channels, our type. All others become RGB of 8 bits."""

MICROSECONDS = 1_000_000
"""FFmpeg's unit of a file's duration, per second."""
END_TOLERANCE_S = 0.5
"""By which a video may end before the time in its header."""

MAX_SEEKS = 3
"""Key frames that are tried, one before the other, where decoding begins later than was asked for."""


class Decoder:
    """The frames of a file's first video stream, by their number; going on is cheap, going back seeks."""

    def __init__(self, av: Any, stream: IO[bytes], container: str, uri: str, limits: Limits) -> None:
        self.uri, self._limits = uri, limits
        self._container = av.open(
            stream, "r", format=container, options={"protocol_whitelist": "none"}, io_open=_refuse_to_open
        )
        self.close = self._container.close
        self.stream = self._chosen()
        self.stream.codec_context.thread_count = 1
        # Else damage is painted over with what was there before.
        self.stream.codec_context.options = {"err_detect": "crccheck+explode"}
        self.codec = self.stream.codec_context.name
        self._times, self._keys = self._timed_packets()
        hiding = self.codec.startswith(HIDING) and (container == "avi" or self.codec == "vp8")
        if hiding or not self._rising():
            self._times, self._keys = self._timed_frames()
        if not self._times or not self._rising():
            raise SourceError(f"{uri}: its frames carry no times by which they could be found; save it anew (ffmpeg)")
        self._check_end()
        self._next = len(self)
        self._frames: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return len(self._times)

    def _chosen(self) -> Any:
        """The first stream of pictures that is no cover; checked before anything of it is decoded."""
        import av

        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not streams:
            raise SourceError(f"{self.uri}: holds no video stream")
        context = streams[0].codec_context
        if context is None or context.name not in CODECS:
            name = "of an unknown codec" if context is None else f"of the codec {context.name}"
            raise SourceError(f"{self.uri}: video {name} is not read; save it as H.264 or FFV1 (ffmpeg)")
        check_shape(self.uri, AXES, (1, 3, context.height, context.width), np.dtype("uint8"), self._limits)
        if context.height * context.width > self._limits.max_whole_px:
            raise SourceError(
                f"{self.uri}: frames of {context.width} x {context.height} px are over the limit max_whole_px = "
                f"{self._limits.max_whole_px}"
            )
        return streams[0]

    def _timed_packets(self) -> tuple[list[int], list[int]]:
        """Times of all packets and of those with key frames, sorted; empty where any has none."""
        times: list[int] = []
        keys: list[int] = []
        for packet in self._container.demux(self.stream):
            if not packet.size or packet.is_discard:
                continue
            self._count(len(times) + 1)
            if packet.pts is None:
                return [], []
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
        return sorted(times), sorted(keys)

    def _timed_frames(self) -> tuple[list[int], list[int]]:
        """As above, by decoding everything."""
        times: list[int] = []
        keys: list[int] = []
        self._container.seek(0, stream=self.stream)
        for frame in self._container.decode(self.stream):
            self._count(len(times) + 1)
            if frame.pts is None:
                return [], []
            times.append(frame.pts)
            if frame.key_frame:
                keys.append(frame.pts)
        return times, keys

    def _check_end(self) -> None:
        """Refuse a file that is cut off: FFmpeg takes it for one that ends there. Sound may go on for longer."""
        if len(self._container.streams) > 1 or not self._container.duration:
            return
        end_s = float((self._times[-1] - self._times[0]) * self.stream.time_base)
        said_s = self._container.duration / MICROSECONDS
        frame_s = 1 / float(self.stream.average_rate) if self.stream.average_rate else 0.0
        if end_s + 2 * frame_s < said_s - END_TOLERANCE_S:
            raise SourceError(
                f"{self.uri}: ends at {end_s + frame_s:.1f} s, its header says {said_s:.1f} s: it is cut off or damaged"
            )

    def _count(self, count: int) -> None:
        if count > self._limits.max_pages:
            raise SourceError(f"{self.uri}: has more frames than the limit max_pages = {self._limits.max_pages}")

    def _rising(self) -> bool:
        return bool(self._keys) and all(a < b for a, b in itertools.pairwise(self._times))

    def frame(self, index: int) -> Any:
        """PyAV's frame.

        Raises:
            SourceError: if it is damaged, or the file ends before it.
        """
        key = bisect.bisect_right(self._keys, self._times[index]) - 1
        begin = bisect.bisect_left(self._times, self._keys[max(key, 0)])
        wanted, begin_anew = self._times[index], not begin <= self._next <= index
        self._next = len(self)
        with _complaints() as complaints:
            if begin_anew:
                self._seek(index, key)
            found = next((frame for frame in self._frames if frame.pts is not None and frame.pts >= wanted), None)
        if found is None or found.pts != wanted or found.is_corrupt or complaints():
            raise SourceError(f"{self.uri}: frame {index} of {len(self)} is damaged or missing; save it anew (ffmpeg)")
        self._next = index + 1
        return found

    def _seek(self, index: int, key: int) -> None:
        """Go to a key frame from which the frame can be reached; not every container finds the very one."""
        tried = [self._keys[i] for i in range(max(key, 0), max(key - MAX_SEEKS, -1), -1)]
        for time in [*tried, self._times[0]]:
            self._container.seek(time, stream=self.stream)
            frames = self._container.decode(self.stream)
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= self._times[index]:
                self._frames = itertools.chain([first], frames)
                return
        self._frames = iter(())


class VideoSource(Source):
    """The first video stream of a file, turned as the file says; sound is not read."""

    def __init__(self, file: SourceFile, opening: Opening) -> None:
        av = _library(file.uri)
        self.uri = file.uri
        container = _container(file.head)
        assert container is not None, "asked to open what is no video"
        with ExitStack() as opened:
            stream = opened.enter_context(file.open())
            self._decoder = Decoder(av, stream, container, file.uri, opening.limits)
            opened.callback(self._decoder.close)
            first = self._decoder.frame(0)
            self._format, num_channels, dtype = PLAIN_FORMATS.get(first.format.name, ("rgb24", 3, "uint8"))
            self._size = first.height, first.width
            self._turns = _quarter_turns(file.uri, first.rotation)
            self._last = 0, self._pixels(first)
            shape = (len(self._decoder), num_channels, *self._last[1].shape[:2])
            check_shape(file.uri, AXES, shape, np.dtype(dtype), opening.limits)
            self._close = opened.pop_all().close
        self.info = SourceInfo(
            uri=file.uri,
            reader="video",
            reader_version=f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}",
            axes=AXES,
            shape=shape,
            dtype=dtype,
            channels=default_channels(num_channels),
            num_bytes=file.num_bytes,
            details=self._details(container, first),
        )

    def _details(self, container: str, first: Any) -> dict[str, Any]:
        rate = self._decoder.stream.average_rate
        return {
            "kind": f"video ({container})",
            "codec": self._decoder.codec,
            "pixel_format": first.format.name,
            "fps": round(float(rate), 4) if rate else None,
            "frames": len(self._decoder),
            "rotation": 90 * self._turns,
        }

    def _pixels(self, frame: Any) -> Pixels:
        """(Y, X, C), turned."""
        if (frame.height, frame.width) != self._size:
            raise SourceError(
                f"{self.uri}: its frames change their size, from {self._size[1]} x {self._size[0]} to {frame.width} x "
                f"{frame.height} px; save it anew in one size (ffmpeg)"
            )
        pixels = np.asarray(frame.to_ndarray(format=self._format))
        return np.rot90(pixels.reshape(*pixels.shape[:2], -1), self._turns)

    def _frame(self, index: int) -> Pixels:
        """(Y, X, C); the last one is kept."""
        if self._last[0] != index:
            self._last = index, self._pixels(self._decoder.frame(index))
        return self._last[1]

    def _read(self, window: Window) -> Pixels:
        times, plane = range(window.start[0], window.stop[0]), window.slices[1:]
        return np.stack([np.moveaxis(self._frame(t), -1, 0)[plane] for t in times])

    def close(self) -> None:
        self._close()


def _library(uri: str) -> Any:
    """PyAV, or the line that says what to install."""
    try:
        import av
    except ImportError as error:
        raise SourceError(f"{uri}: videos need the extra `video`: pip install 'segcore[video]'") from error
    return av


@contextmanager
def _complaints() -> Iterator[Callable[[], bool]]:
    """Whether a checksum was found wrong: some decoders (FFV1) say so, and no more, and show what was there before."""
    import av

    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as messages:
            yield lambda: any("CRC mismatch" in text for _, _, text in messages)
    finally:
        av.logging.set_level(level)


def _refuse_to_open(url: str, flags: int, options: Any) -> NoReturn:
    """What FFmpeg calls for any file but the one it was given."""
    raise SourceError(f"{url}: a video names this file, which is not opened")


def _quarter_turns(uri: str, degrees: float) -> int:
    """Quarter turns against the clock, by which the frames are shown."""
    if degrees % 90:
        raise SourceError(f"{uri}: its frames are turned by {degrees} degrees; expected quarter turns")
    return int(degrees // 90) % 4


def _container(head: bytes) -> str | None:
    """FFmpeg's name of the container; None for all else, playlists among it."""
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[4:8] == b"ftyp":
        stills = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"crx ")
        return None if head[8:12] in stills else "mp4"
    return "mov" if head[4:8] in (b"moov", b"mdat", b"wide") else None


READER = Reader(
    name="MP4, MOV, AVI, Matroska, WebM",
    rank=45,
    matches=lambda file: _container(file.head) is not None,
    open=VideoSource,
    formats=(
        Format(
            "MP4, MOV, AVI, Matroska, WebM",
            (".mp4", ".mov", ".avi", ".mkv", ".webm"),
            "frames as RGB of 8 bits, or grey; a sequence (t); sound is not read",
        ),
    ),
    extra="video",
)
