"""Videos of camera pictures: encoded as the frames come, read back as arrays."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import numpy as np

from imf_jax.errors import UserError

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


DAMAGE = (av.FFmpegError, OSError, ValueError, AttributeError, ArithmeticError, MemoryError)
"""What PyAV raises over a damaged file: a stream of an unknown kind lacks attributes, a bad header claims any size."""


def require_codec() -> None:
    """Refuse a library of videos that cannot encode them.

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
        fps: frames per second.
        options: of the encoder.

    Raises:
        UserError: the file cannot be written, here and in the methods.
    """

    def __init__(
        self, path: Path, height: int, width: int, fps: int, options: Mapping[str, str] = MappingProxyType(TRAINING)
    ) -> None:
        self.path, self.fps = path, fps
        self.num_frames = 0
        self.num_bytes = 0
        """Size of the encoded pictures so far [bytes]."""
        try:
            self._container = av.open(str(path), "w", format="mp4")
            stream = self._container.add_stream(CODEC, rate=fps, options=dict(options))
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
        frame.pts, frame.time_base = self.num_frames, Fraction(1, self.fps)
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
        """Let go of an unfinished file, which the caller removes."""
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
    """What a video file says about itself: frames, height and width [pixels], frames per second."""

    num_frames: int
    height: int
    width: int
    fps: float


def probe_video(path: Path) -> VideoInfo:
    """Read the header of a video.

    Raises:
        UserError: the file cannot be read as a video.
    """
    with _reading(path) as container:
        stream = container.streams.video[0]
        return VideoInfo(stream.frames, stream.height, stream.width, float(stream.average_rate or 0))


def read_frames(path: Path, start: float, count: int, fps: float) -> Iterator[tuple[float, np.ndarray]]:
    """Decode frames that follow each other.

    Args:
        path: the video.
        start: time of the first frame in the file [s].
        count: frames.
        fps: frames per second.

    Yields:
        time in the file [s] and picture, uint8 (H, W, 3).

    Raises:
        UserError: the file cannot be read as a video, or ends too early.
    """
    found = 0
    with _reading(path) as container:
        stream = container.streams.video[0]
        if not stream.time_base:
            raise ValueError("it has no clock")
        container.seek(max(0, int(start / stream.time_base)), stream=stream)
        for frame in container.decode(stream):
            time = float((frame.pts or 0) * stream.time_base)
            if time < start - 0.5 / fps:
                continue  # the seek goes back to a key frame
            if found == count:
                break
            yield time, frame.to_ndarray(format="rgb24")
            found += 1
    if found < count:
        raise UserError(f"{path}: has {found} of {count} frames from {start:.3f} s on; record that episode again")


@contextmanager
def _reading(path: Path) -> Iterator[InputContainer]:
    """An opened video with at least one stream of pictures; whatever is wrong with it becomes one line."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("it holds no pictures")
            yield container
    except DAMAGE as error:
        raise _unreadable(path, error) from None


def _unwritable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"cannot write the video {path} ({reason}); free space or choose another folder")


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path}: cannot be read as a video ({reason}); record that episode again")
