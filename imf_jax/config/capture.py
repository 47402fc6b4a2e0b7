"""What is kept of each episode besides its record.

A new capture is a flag here with its module in `RECORDERS`, and that module in `imf_jax/rollout/recorders/`.
"""

from dataclasses import dataclass, replace

from imf_jax.config.base import IMAGE_SIZE, VideoChoice, require

RECORDERS = {
    "save_trajectory": "trajectory",
    "save_images": "path_image",
    "record_video": "video",
    "save_rerun": "rerun_file",  # after the videos, which it shows
}
"""Flag -> module in `imf_jax.rollout.recorders`, which has a `make_recorder`; records name artifacts in this order."""


@dataclass(frozen=True)
class CaptureConfig:
    """What is kept of each episode besides its record; none of it changes a result."""

    # Write trajectory.npz per episode: commanded actions, executed end-effector poses, state, stage, positions.
    save_trajectory: bool = False
    # Keep in trajectory.npz also each chunk of a policy as it was at its replan.
    save_chunks: bool = False
    # Write trajectory.png per episode: a camera's picture with the executed path of both end effectors in red.
    save_images: bool = False
    # Camera of the pictures of --save-images; by default the one that the task names.
    camera: str | None = None
    # Write timing.json: the time of each stage of the loop, per call and per control step; with --save-trajectory also
    # the raw times per step. Compiled loops have one stage.
    save_timing: bool = False
    # Write an MP4 per episode and camera: of all episodes, of those that did not succeed (failures), of none, or of the
    # first N.
    record_video: VideoChoice = "none"
    # Cameras of the videos; by default the one that the task names.
    video_cameras: tuple[str, ...] | None = None
    # Height and width of the videos, even [pixels].
    video_size: int = IMAGE_SIZE
    # Write episode.rrd per episode, which Rerun shows (extra `rerun`): the scene in 3-D, paths, chunks, curves, and its
    # videos if it has any. Of which episodes: as of --record-video.
    save_rerun: VideoChoice = "none"

    def __post_init__(self) -> None:
        cameras, size = self.video_cameras, self.video_size
        _require_choice("--record-video", self.record_video)
        _require_choice("--save-rerun", self.save_rerun)
        require(self.save_trajectory or not self.save_chunks, "--save-chunks would do nothing; add --save-trajectory")
        require(cameras is None or len(cameras) > 0, "--video-cameras is empty; name at least one camera")
        twice = cameras is not None and len(set(cameras)) != len(cameras)
        require(not twice, f"--video-cameras {' '.join(cameras or ())} names a camera twice")
        require(
            size >= 16 and size % 2 == 0,
            f"--video-size is {size}; it must be even and at least 16 (colours are stored for 2 x 2 pixels)",
        )

    @property
    def keep_chunks(self) -> bool:
        """Whether a capture shows the chunks of the policy."""
        return self.save_chunks or self.save_rerun not in (0, "none")

    @property
    def recorders(self) -> tuple[str, ...]:
        """Modules of the recorders that are asked for, see `RECORDERS`."""
        return tuple(module for flag, module in RECORDERS.items() if getattr(self, flag) not in (False, 0, "none"))

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras of the pictures and videos that are asked for and named, see `with_default`."""
        pictures = (self.camera,) if self.save_images and self.camera is not None else ()
        return pictures + ((self.video_cameras or ()) if self.record_video not in (0, "none") else ())

    def with_default(self, camera: str) -> "CaptureConfig":
        """The same, with `camera` where none is named."""
        return replace(self, camera=self.camera or camera, video_cameras=self.video_cameras or (camera,))


def _require_choice(flag: str, choice: VideoChoice) -> None:
    """Refuse a choice of episodes that is none.

    Raises:
        ArgumentError: lists those that are.
    """
    words = ("all", "failures", "none")
    known = isinstance(choice, int) and not isinstance(choice, bool) and choice >= 0
    require(
        known or choice in words,
        f"{flag} is {choice}; it must be {', '.join(words)}, or the number of first episodes to record",
    )
