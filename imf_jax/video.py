"""Videos of camera pictures: encoded as the frames come, read back as arrays.

PyAV itself is used, not imageio's plugin for it: one frame per control step with its time stamp, a size that is known
while a video grows, and frames that are found by their time stamps need the encoder's and the decoder's own settings.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import numpy as np

from imf_jax.errors import UserError, one_line
from imf_jax.files import read_failure

try:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream
except ImportError:
    raise UserError("videos need the package 'av'; install it with: pip install 'imf_jax[video]'") from None

CODEC = "libx264"
PIXEL_FORMAT = "yuv420p"

STREAMED = {
    "preset": "veryfast",
    # No frame waits in the encoder, so hundreds of open videos take little memory and know their size.
    "tune": "zerolatency",
}

TRAINING = STREAMED | {
    # Visually lossless; policies are trained on these pictures.
    "crf": "18",
    # Every second frame is a key frame, as in LeRobot's own videos: training jumps to frames in random order.
    "g": "2",
}
"""Encoder options of pictures to learn from."""

VIEWING = STREAMED | {"crf": "23", "g": "50"}
"""Encoder options of pictures to look at: a key frame per second, for players that jump."""

SEEK_BACK = (0.0, 1.0, 10.0, math.inf)
"""How far before the first wanted frame a seek aims [s]; tried in turn until that frame can be decoded."""

LARGEST_DENOMINATOR = 1001
"""Of frames per second as a fraction: NTSC has 30000/1001, which is written 29.97."""

LARGEST_SIDE = 4096
"""Videos whose frames say they are wider or higher than this are not decoded [pixels]."""

MEND = "restore that file or record the episode again"

DAMAGE = (av.FFmpegError, OSError, ValueError, AttributeError, ArithmeticError, MemoryError)
"""Errors that PyAV raises over a damaged file: an unknown stream lacks attributes, a bad header claims any size."""


def require_codec() -> None:
    """Refuse a build of PyAV that cannot encode videos.

    Raises:
        UserError: it was built without H.264.
    """
    try:
        av.codec.Codec(CODEC, "w")
    except (av.FFmpegError, ValueError):
        raise UserError(
            f"this build of the package 'av' cannot encode H.264 ({CODEC}); install one that can: "
            "pip install --force-reinstall --only-binary av av"
        ) from None


class VideoEncoder:
    """Writes pictures to an MP4 file, one after the other.

    Args:
        path: the file; its folder must exist.
        height: of the pictures, even [pixels].
        width: likewise.
        fps: frames per second, of which the file keeps fractions such as 29.97.
        options: of the encoder.

    Raises:
        UserError: the file cannot be written, here and in the methods.
    """

    def __init__(
        self, path: Path, height: int, width: int, fps: float, options: Mapping[str, str] = MappingProxyType(TRAINING)
    ) -> None:
        self.path = path
        self.rate = max(Fraction(fps).limit_denominator(LARGEST_DENOMINATOR), Fraction(1, LARGEST_DENOMINATOR))
        self.num_frames = 0
        self.num_bytes = 0
        """Size of the encoded pictures so far [bytes]."""
        try:
            self._container = av.open(str(path.absolute()), "w", format="mp4")
            stream = self._container.add_stream(CODEC, rate=self.rate, options=dict(options))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise _unwritable(path, error) from None
        assert isinstance(stream, VideoStream)
        self._stream = stream
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = PIXEL_FORMAT
        self._stream.thread_count = 1  # many videos are open at once, and the bytes do not depend on the machine

    def add(self, picture: np.ndarray) -> None:
        """Encode a picture, uint8 (H, W, 3)."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = self.num_frames, 1 / self.rate
        self._encode(frame)
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file; only then can it be played."""
        self._encode(None)
        try:
            self._container.close()
        except (av.FFmpegError, OSError) as error:
            raise _unwritable(self.path, error) from None

    def abort(self) -> None:
        """Close an unfinished file, which the caller removes."""
        try:
            self._container.close()
        except (av.FFmpegError, OSError, ValueError):
            return  # nobody wants this file any more

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self.num_bytes += packet.size
                self._container.mux(packet)
        except (av.FFmpegError, OSError) as error:
            raise _unwritable(self.path, error) from None


@dataclass(frozen=True)
class VideoInfo:
    """Header of a video file.

    Attributes:
        num_frames: 0 if it does not say.
        height: of the frames [pixels].
        width: likewise.
        fps: frames per second on average.
        start: time stamp of the first frame [s].
        end: when the last frame ends [s]; None if the header does not say.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    start: float
    end: float | None


def probe_video(path: Path) -> VideoInfo:
    """Read the header of a video.

    Raises:
        UserError: the file cannot be read as a video.
    """
    with _reading(path) as container:
        stream = container.streams.video[0]
        start = float((stream.start_time or 0) * _clock(stream))
        end = None if stream.duration is None else start + float(stream.duration * _clock(stream))
        fps = float(stream.average_rate or 0)
        return VideoInfo(stream.frames, stream.height, stream.width, fps, start, end)


def read_frames(path: Path, times: Sequence[float], tolerance: float) -> Iterator[np.ndarray]:
    """Decode the frames of given times; each is recognised by its own time stamp, never by counting.

    Args:
        path: the video.
        times: increasing, on the clock of the file [s].
        tolerance: by how much a time stamp may differ [s]; less than half the interval between frames.

    Yields:
        uint8 (H, W, 3), the nearest frame of each time.

    Raises:
        UserError: the file cannot be read as a video, or has no sound frame at one of the times.
    """
    for back in SEEK_BACK:
        with _reading(path) as container:
            frames = _decode_from(container, times[0] - back, times[0] + tolerance)
            if frames is not None:
                yield from _pick(path, frames, times, tolerance)
                return


def _decode_from(container: InputContainer, start: float, latest: float) -> Iterator[av.VideoFrame] | None:
    """Decode from the key frame that a seek to `start` [s] finds, or None if frames at `latest` [s] would be missed.

    Where a seek ends depends on the container: for MP4 it is the last key frame that is *decoded* before `start`. In an
    open group of pictures (the default of HEVC) this key frame may be *shown* after it, and the frames in between refer
    to pictures before the key frame, so that they cannot be decoded.
    """
    stream = container.streams.video[0]
    if start == -math.inf:
        return container.decode(stream)
    try:
        container.seek(math.floor(start / _clock(stream)), stream=stream)
    except av.FFmpegError:
        return None
    packets = container.demux(stream)
    key = next(packets)
    if not key.is_keyframe or key.pts is None or key.pts * _clock(stream) > latest:
        return None
    frames = (frame for packet in chain([key], packets) for frame in packet.decode())
    first = next(frames, None)
    if not isinstance(first, av.VideoFrame) or first.time is None or first.time > latest:
        return None
    return chain([first], frames)


def _pick(
    path: Path, frames: Iterator[av.VideoFrame], times: Sequence[float], tolerance: float
) -> Iterator[np.ndarray]:
    """The nearest frame of each time; `frames` are in the order in which they are shown."""
    nearest, following = next(frames, None), next(frames, None)
    for time in times:
        while following is not None and abs(_time(following) - time) <= abs(_time(nearest) - time):
            nearest, following = following, next(frames, None)
        if nearest is None or not abs(_time(nearest) - time) <= tolerance:
            found = "there is none" if nearest is None else f"the nearest is at {_time(nearest):.4f} s"
            raise UserError(f"{path}: no frame at {time:.4f} s, {found}; {MEND}")
        if nearest.is_corrupt:
            raise UserError(f"{path}: the frame at {time:.4f} s is damaged; {MEND}")
        yield nearest.to_ndarray(format="rgb24")


def _time(frame: av.VideoFrame | None) -> float:
    if frame is None or frame.time is None:
        raise ValueError("its frames have no time stamps")
    return frame.time


def _clock(stream: VideoStream) -> Fraction:
    if not stream.time_base:
        raise ValueError("it has no clock")
    return stream.time_base


@contextmanager
def _reading(path: Path) -> Iterator[InputContainer]:
    """An opened video with at least one stream of pictures; whatever is wrong with it becomes one line."""
    try:
        with av.open(str(path.absolute())) as container:
            if not container.streams.video:
                raise ValueError("it holds no pictures, or in a codec that this build of PyAV lacks")
            if max(container.streams.video[0].width, container.streams.video[0].height) > LARGEST_SIDE:
                raise ValueError(f"it has frames of more than {LARGEST_SIDE} pixels along a side")
            yield container
    except DAMAGE as error:
        raise _unreadable(path, error) from None


def _unwritable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"cannot write the video {path} ({reason}); free space or choose another folder")


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or one_line(error)
    return read_failure(path, error, f"cannot be read as a video ({reason}); {MEND}")
