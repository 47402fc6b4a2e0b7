"""Shared parts of all settings: fixed choices, and checks of values."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from imf_jax.errors import ArgumentError

VIEWS = ("r_vis", "top", "front")
"""Cameras that the LEWM encoder was trained on, in the order in which it takes their pictures."""

GRID_PLACES = 4
"""Views that the layout `grid`, 2 x 2, has room for."""

IMAGE_SIZE = 256
"""Height and width of camera pictures unless a setting says otherwise [pixels]."""

SEEDS = 2**30
"""Seeds a user can choose from: 0 .. SEEDS - 1. Scenes of every kind have a range of their own of this length."""

NO_TASK = "none"
"""In place of the name of a task: the robot of the data has no scene here, so that nothing can be rolled out."""

RendererName = Literal["warp", "opengl"]
"""Renderers of camera pictures: MuJoCo Warp's ray tracer (anywhere), or MuJoCo's OpenGL (where EGL or OSMesa work)."""

RendererChoice = Literal["auto", "warp", "opengl"]
"""A renderer, or auto: warp on CUDA, else the faster of those that work here."""

VisualName = Literal["mesh", "decimated"]
"""Meshes in pictures: as they are, or with one vertex per cube of 1 cm, which OpenGL draws several times as fast."""

BackendName = Literal["auto", "warp", "mjx", "native"]
"""Simulation backends: MuJoCo Warp, MJX-JAX or C MuJoCo; auto: Warp on CUDA, else C MuJoCo."""

Precision = Literal["highest", "high", "default"]
"""Precision of float32 matrix products; it matters on accelerators only. On NVIDIA GPUs `highest` is float32, the
others are TF32, which keeps 10 of the 23 bits of the mantissa."""

PlanPrecision = Literal["highest", "high", "default", "bfloat16"]
"""As `Precision`; bfloat16 also rounds what the layers of the transformer multiply to 8 bits, also on CPUs, for plans
only."""

DeviceCount = int | Literal["all"]
"""Number of local devices that share the scenes."""

VideoChoice = int | Literal["all", "failures", "none"]
"""Episodes whose videos are kept; a number: the first so many."""

TrackerName = Literal["swanlab", "wandb", "tensorboard", "trackio"]
"""Services and formats that a training run can be followed in; each is an extra of the package."""

TrackerMode = Literal["online", "offline", "disabled"]
"""Send at once, keep in the run folder to be sent later, or neither."""


@dataclass(frozen=True)
class PictureStyle:
    """How pictures are drawn. Defaults are what demonstrations of older versions were drawn with."""

    renderer: RendererName = "warp"
    visual: VisualName = "mesh"

    def __str__(self) -> str:
        return f"{self.renderer} with {self.visual} meshes" if self.visual != "mesh" else self.renderer


def require(condition: bool, message: str) -> None:
    """Raise `ArgumentError(message)` unless `condition` holds."""
    if not condition:
        raise ArgumentError(message)


def nearest_known(name: str, known: Collection[str], cutoff: float = 0.6) -> str:
    """Hint about an unknown name: the known one that is most alike, by `cutoff` in 0..1 at least, else all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"did you mean {close[0]}?" if close else f"choose from: {', '.join(known)}"


def kind_name(config: Any) -> str:
    """Name of the kind of settings, by their class: `FlowConfig` -> flow, `ResNetEncoderConfig` -> resnet."""
    kind = config if isinstance(config, type) else type(config)
    return kind.__name__.removesuffix("Config").removesuffix("Encoder").lower()


def flag(name: str) -> str:
    """The flag of a field: `num_envs` -> `--num-envs`."""
    return f"--{name.replace('_', '-')}"


def require_counts(config: Any, *names: str) -> None:
    """Refuse fields of a configuration that are below 1; None stands for a default."""
    for name in names:
        value = getattr(config, name)
        require(value is None or value >= 1, f"{flag(name)} is {value}; it must be at least 1")


def require_cameras(group: str, cameras: tuple[str, ...]) -> None:
    """Refuse an empty list of cameras, and one that names a camera twice. `group`: of the settings, for the message."""
    require(len(cameras) > 0, f"{group}.cameras is empty; name at least one camera")
    require(len(set(cameras)) == len(cameras), f"{group}.cameras {', '.join(cameras)} names a camera twice")


def require_views(group: str, cameras: tuple[str, ...], fusion: str) -> None:
    """Refuse cameras that `require_cameras` refuses, and more of them than the layout `grid` has room for."""
    require_cameras(group, cameras)
    require(
        fusion != "grid" or len(cameras) <= GRID_PLACES,
        f"{group}.fusion grid has room for {GRID_PLACES} cameras, not {len(cameras)}; use row",
    )


def require_seed(seed: int) -> None:
    """Refuse a seed outside the range from which all random numbers are made without repeating."""
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    require(whole and 0 <= seed < SEEDS, f"seed {seed} must be in [0, {SEEDS - 1}]")
