"""Assembly of policy, backend and devices, which evaluations, sweeps of the delay and recordings share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from imf_jax.config import EvalConfig, PictureStyle, require
from imf_jax.config.recording import RolloutConfig
from imf_jax.evaluation.evaluated_policy import EvaluatedPolicy, load_evaluated_policy, perturbed
from imf_jax.evaluation.outside import load_outside_policy
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.planner import ProgramPlanner
from imf_jax.sim.backends.base import Backend
from imf_jax.sim.backends.choice import local_devices, make_backend, resolve_backend, resolve_devices
from imf_jax.sim.backends.picture_choice import possible_style, resolve_renderer, say_other_style


@dataclass(frozen=True)
class Setup:
    """Policy, backend and devices of a rollout. Nothing is compiled by making one.

    Attributes:
        policy: the policy to roll out.
        backend: the simulator of its task.
        devices: those that share the scenes of a compiled backend; none for a backend of the host.
        style: how pictures are drawn.
    """

    policy: EvaluatedPolicy
    backend: Backend
    devices: tuple[Any, ...] = ()
    style: PictureStyle = field(default_factory=PictureStyle)

    @property
    def place(self) -> str:
        """Devices that it runs on, for messages: "cpu", "4 x NVIDIA H100"."""
        kind = (self.devices or local_devices())[0].device_kind
        return f"{len(self.devices)} x {kind}" if len(self.devices) > 1 else str(kind)

    def num_envs(self, wanted: int, episodes: int) -> int:
        """Scenes simulated at once: not more than there are episodes, in equal parts for the devices."""
        shares = max(1, len(self.devices))
        return min(wanted, -(-episodes // shares) * shares)


def assemble(config: EvalConfig | RolloutConfig) -> Setup:
    """Assemble the policy, backend and devices that the flags name.

    Raises:
        UserError, ArgumentError: one of them cannot be used.
    """
    name = resolve_backend(config.backend)
    devices = resolve_devices(name, config.devices, config.num_envs)
    if isinstance(config, EvalConfig) and config.policy is not None:
        policy = load_outside_policy(config)
    else:
        policy = load_evaluated_policy(config)
    try:
        return _with_backend(config, policy, name, devices)
    except BaseException:
        policy.close()
        raise


def _with_backend(
    config: EvalConfig | RolloutConfig, policy: EvaluatedPolicy, name: str, devices: Sequence[Any]
) -> Setup:
    """Assemble the backend `name` for a policy."""
    perturb = config.perturb if isinstance(config, EvalConfig) else {}
    style = choose_style(config, policy, name)
    backend = make_backend(
        name,
        policy.task,
        image_size=policy.image_size,
        renderer=style.renderer,
        visual=style.visual,
        interpolation=config.execution.action_interpolation,
        devices=devices,
        perturb=perturb,
    )
    policy = perturbed(policy, perturb, backend)
    return Setup(policy, backend, tuple(devices) if backend.compiled else (), style)


def choose_style(config: EvalConfig | RolloutConfig, policy: EvaluatedPolicy, backend: str) -> PictureStyle:
    """Choose how pictures are drawn: as the flags say, else as in the demonstrations of the policy.

    Args:
        config: the flags.
        policy: what sees the pictures.
        backend: a name made by `resolve_backend`.

    Raises:
        ArgumentError: a flag that would do nothing.
    """
    seen = policy.planner.cameras
    cameras = seen or (config.recording.cameras if isinstance(config, RolloutConfig) else ())
    for flag, value, default in (("renderer", config.renderer, "warp"), ("visual", config.visual, "mesh")):
        require(
            value in (None, default) or bool(cameras),
            f"--{flag} {value} would do nothing: this policy sees no pictures",
        )
    if not cameras:
        return PictureStyle()
    learned = policy.pictures if seen else None
    usual, why = possible_style(learned, backend)
    visual = config.visual or usual.visual
    renderer = resolve_renderer(
        config.renderer or usual.renderer,
        policy.task,
        cameras,
        backend=backend,
        image_size=policy.image_size,
        scenes=config.num_envs or config.episodes or 1,
        visual=visual,
    )
    style = PictureStyle(renderer, visual)
    say_other_style(learned, style, why if style == usual else "")
    return style


def make_rollout(
    backend: Backend, planner: ProgramPlanner, episodes: Sequence[int], *, devices: Sequence[Any], **options: Any
) -> Any:
    """Make the loop that suits the backend; see `Rollout` for the options."""
    if not backend.compiled:
        return Rollout(backend, planner, episodes, **options)
    from imf_jax.rollout.compiled import CompiledRollout  # it imports MJX, which the host loop does without

    return CompiledRollout(backend, planner, episodes, devices=devices, **options)  # type: ignore[arg-type]


def require_camera(name: str, backend: Backend) -> None:
    """Refuse a camera that the scene does not have.

    Raises:
        ArgumentError: lists those that it has.
    """
    require(name in backend.cameras, f"camera {name!r} is not in the scene; choose from: {', '.join(backend.cameras)}")
