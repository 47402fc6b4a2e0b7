"""The whole benchmark of the closed loop: its policies, sizes, order of measurements and results.

On a CUDA GPU the promised figures come first: batch sizes that count, and the policy that sees before the one that
does not. Whatever is cut short, by an error, a kill or a time limit, leaves the figures before it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from imf_jax.benchmark.device_figures import PROMISED, PROMISED_SIZES, DeviceFigure, DeviceSizes, measure_device
from imf_jax.benchmark.device_state import count_captures, on_cuda
from imf_jax.benchmark.evaluation import EvaluationFigures, measure_evaluation
from imf_jax.benchmark.random_walk import Wanderer, untrained_policy
from imf_jax.benchmark.replay import actions_in_contact, replaying
from imf_jax.benchmark.rollouts import WARP, LoopFigures, MeasuredPolicy, measure_loop, require_whole_plans
from imf_jax.benchmark.scaling import ScalingFigures, batch_sizes, measure_scaling
from imf_jax.benchmark.tables import FAILED, Table
from imf_jax.checkpoints import load_policy
from imf_jax.config import IMAGE_SIZE, EncoderDtype, LewmEncoderConfig, PictureStyle, require
from imf_jax.errors import UserError, one_line
from imf_jax.models.encoders.preprocess import Fusion
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.sim.rendering.warp_runtime import start_warp
from imf_jax.sim.tasks import get_task, task_names

TASK = "transfer"

FIRST_ON_CUDA = (1024, 4096)
"""Batch sizes that are measured first on a CUDA GPU."""

T = TypeVar("T")


class Usual(NamedTuple):
    """Default sizes, quick enough and still typical.

    Attributes:
        batch: scenes at once.
        steps: control steps of an episode.
        scaling_steps: the same where batch sizes are compared.
    """

    batch: int
    steps: int
    scaling_steps: int


USUAL = {
    # (on a CUDA GPU, with cameras)
    (False, False): Usual(batch=64, steps=200, scaling_steps=80),
    (False, True): Usual(batch=16, steps=24, scaling_steps=24),
    (True, False): Usual(batch=1024, steps=200, scaling_steps=200),
    (True, True): Usual(batch=256, steps=200, scaling_steps=80),
}


DRY_RUN = {(True, cameras): Usual(batch=2, steps=8, scaling_steps=8) for cameras in (False, True)}

DRY_RUN_SIZES = DeviceSizes(
    episodes=3, episode_steps=8, plans=2, training_steps=2, frames_batch=2, frames_size=32, frames_steps=2
)


class Views(NamedTuple):
    """Pictures of a policy that sees.

    Attributes:
        fusion: layout of the three views.
        image_size: height and width of each [pixels].
        dtype: operands of the encoder's matrix products.
    """

    fusion: Fusion
    image_size: int
    dtype: EncoderDtype = "float32"


@dataclass(frozen=True)
class Problem:
    """A measurement that failed: what it was, and why."""

    what: str
    why: str


class RolloutFigures(NamedTuple):
    """All measured figures, and what failed."""

    loops: list[LoopFigures]
    scaling: list[ScalingFigures]
    device: list[DeviceFigure]
    evaluation: list[EvaluationFigures]
    problems: list[Problem]

    def tables(self) -> list[Table]:
        """The figures as tables; none of a kind of which there is nothing."""
        loops, scaling, device, evaluation, problems = ([asdict(row) for row in rows] for rows in self)
        tables = [
            Table(
                "Closed loop; share = sum of its parts / loop; ratio = loop / one scene at a time", loops, upright=True
            ),
            Table("Closed loop over batch sizes", scaling),
            Table("Promised for one GPU", device),
            Table("Evaluation of the disturbed expert; ratio = loop / its frozen form", evaluation),
            Table(FAILED, problems),
        ]
        return [table for table in tables if table.rows]


def untrained_policies(
    sizes: Sequence[tuple[int, int]],
    camera_size: tuple[int, int] | None,
    *,
    views: Sequence[Views] = (Views("grid", IMAGE_SIZE),),
    task: str = TASK,
) -> list[MeasuredPolicy]:
    """Untrained policies of a task.

    Args:
        sizes: width and layers of policies without cameras.
        camera_size: width and layers of policies that see three cameras; None for no such policy.
        views: what those see, one policy each.
        task: the task.
    """
    make_planner, found = partial(Wanderer, task=task), []
    for width, layers in sizes:
        policy = untrained_policy(width, layers, get_task(task))
        found.append(MeasuredPolicy(f"state, {width}/{layers}", policy, make_planner, task))
    if camera_size is None:
        return found
    width, layers = camera_size
    for fusion, image_size, dtype in views:
        policy = untrained_policy(
            width, layers, get_task(task), cameras=True, image_size=image_size, fusion=fusion, encoder_dtype=dtype
        )
        kind = f"LEWM {fusion}" if dtype == "float32" else f"LEWM {fusion} in {dtype}"
        label = f"three cameras {image_size}x{image_size}, {kind}, {width}/{layers}"
        found.append(MeasuredPolicy(label, policy, make_planner, task))
    return found


def usual_camera_size() -> tuple[int, int]:
    """Width and layers of the head of the policy that sees, unless the user asks for others."""
    return (384, 12) if on_cuda() else (128, 4)


def usual_views() -> list[Views]:
    """What policies see unless the user asks for others: on CUDA what was promised, then what the presets use."""
    presets = LewmEncoderConfig()
    if not on_cuda():
        return [Views("grid", IMAGE_SIZE)]
    return [Views("grid", 128), Views("grid", 128, "bfloat16"), Views(presets.fusion, presets.image_size)]


def trained_policy(checkpoint: Path) -> MeasuredPolicy:
    """The policy of a checkpoint or run folder; see `load_policy` for what is refused."""
    loaded = load_policy(checkpoint)
    require(
        loaded.meta.task in task_names(),
        f"the policy was trained on a task of its own, {loaded.meta.task}; measure one of an installed task",
    )
    label = f"{loaded.path.resolve().parent.parent.name}, step {loaded.step}"
    return MeasuredPolicy(label, loaded.policy, PolicyPlanner, loaded.meta.task)


def measure_rollouts(
    policies: Sequence[MeasuredPolicy],
    backend: str,
    *,
    batch: int | None,
    steps: int | None,
    repeats: int,
    max_batch: int,
    max_seconds: float,
    style: PictureStyle = WARP,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda line: None,
    on_figures: Callable[[RolloutFigures], None] = lambda figures: None,
) -> RolloutFigures:
    """Measure all policies.

    Args:
        policies: the policies, at least one.
        backend: a name made by `imf_jax.sim.backends.choice.resolve_backend`.
        batch: scenes at once where the loop is compared with its parts and the baseline; by default `USUAL`.
        steps: control steps of an episode; by default `USUAL`.
        repeats: rounds.
        max_batch: the largest batch size.
        max_seconds: budget for all batch sizes together, and for the evaluation on a GPU [s].
        style: how pictures are drawn.
        dry_run: measure all that is measured on a GPU, in that order and in the smallest sizes, whatever is here.
        say: receives a line when something begins.
        on_figures: receives what is known so far whenever something ends.

    Raises:
        ArgumentError: see `measure_loop`; or pictures that nothing would see. A device that fails is no error:
            its message is among the figures.
    """
    require(
        style == WARP or any(measured_policy.cameras for measured_policy in policies),
        f"no policy that is measured sees pictures, so nothing would be drawn by {style}; leave out --renderer and "
        "--visual",
    )
    cuda = on_cuda() or dry_run
    usual_sizes = DRY_RUN if dry_run else USUAL
    for measured_policy in policies:
        usual = usual_sizes[cuda, bool(measured_policy.cameras)]
        for length in {steps or usual.steps, steps or usual.scaling_steps}:
            require_whole_plans(length, measured_policy.plan_with(1), backend)
    figures = RolloutFigures([], [], [], [], [])

    # What a device refuses or cannot do must not cost the figures after it; on a CPU a mistake is answered at once.
    survived = (RuntimeError, MemoryError, UserError) if cuda else (RuntimeError, MemoryError)

    def attempt(what: str, measure: Callable[[], T]) -> T | None:
        say(what)
        try:
            return measure()
        except survived as error:
            figures.problems.append(Problem(what, one_line(error)))
            return None
        finally:
            on_figures(figures)

    def loop(measured_policy: MeasuredPolicy) -> None:
        usual = usual_sizes[cuda, bool(measured_policy.cameras)]
        row = measure_loop(
            measured_policy,
            backend,
            batch=batch or usual.batch,
            steps=steps or usual.steps,
            repeats=repeats,
            style=style if measured_policy.cameras else WARP,
        )
        figures.loops.append(row)

    def contact(measured_policy: MeasuredPolicy) -> None:
        usual = usual_sizes[cuda, False]
        actions = actions_in_contact(measured_policy.task, (batch or usual.batch) * repeats, steps or usual.steps)
        loop(replaying(measured_policy, actions, "in contact"))

    def scaling(measured_policy: MeasuredPolicy, sizes: Sequence[int]) -> None:
        def keep(row: ScalingFigures) -> None:
            figures.scaling.append(row)
            on_figures(figures)

        measure_scaling(
            measured_policy,
            backend,
            sizes=sizes,
            steps=steps or usual_sizes[cuda, bool(measured_policy.cameras)].scaling_steps,
            repeats=repeats,
            max_seconds=max_seconds / len(policies),
            style=style if measured_policy.cameras else WARP,
            on_row=keep,
        )

    def loops(measured_policy: MeasuredPolicy) -> None:
        label = measured_policy.label
        attempt(f"{label}: closed loop, its parts, and one scene at a time", partial(loop, measured_policy))
        if not measured_policy.cameras and get_task(measured_policy.task).expert:
            attempt(f"{label}: the same with objects in the hands", partial(contact, measured_policy))

    def scale(measured_policy: MeasuredPolicy, sizes: Sequence[int]) -> None:
        if sizes:
            names = ", ".join(f"{size:,}" for size in sizes)
            attempt(f"{measured_policy.label}: batch sizes {names}", partial(scaling, measured_policy, sizes))

    def promised(policies: Sequence[MeasuredPolicy], frames: bool = True) -> None:
        def keep(figure: DeviceFigure) -> None:
            figures.device.append(figure)
            on_figures(figures)

        measure_device(
            policies,
            figures.scaling,
            backend,
            max_seconds=max_seconds,
            style=style,
            sizes=DRY_RUN_SIZES if dry_run else PROMISED_SIZES if cuda else None,
            attempt=attempt,
            on_figure=keep,
            frames=frames,
        )

    def evaluations() -> None:
        def keep(task: str) -> None:
            size, episodes = batch or usual_sizes[cuda, False].batch, 4 if dry_run else None
            figures.evaluation.append(measure_evaluation(task, backend, batch=size, episodes=episodes))

        for task in dict.fromkeys(measured_policy.task for measured_policy in policies):
            if get_task(task).expert is not None:
                attempt(f"{task}: an evaluation whose episodes end at different times", partial(keep, task))

    if cuda and backend == "warp":
        count_captures(start_warp())
    every_size = batch_sizes(max_batch)
    if cuda:
        first = [size for size in ((2,) if dry_run else FIRST_ON_CUDA) if size <= max_batch]
        ordered = sorted(policies, key=lambda measured_policy: not measured_policy.cameras)
        main = [measured_policy for measured_policy in ordered if measured_policy.label in PROMISED] or ordered
        for measured_policy in main:
            scale(measured_policy, first)
        promised(main)
        if others := [measured_policy for measured_policy in ordered if measured_policy not in main]:
            for measured_policy in others:
                scale(measured_policy, first)
            promised(others, frames=False)
        for measured_policy in ordered:
            loops(measured_policy)
        evaluations()
        for measured_policy in ordered:
            scale(measured_policy, [size for size in every_size if size not in first])
    else:
        for measured_policy in policies:
            loops(measured_policy)
            scale(measured_policy, every_size)
        evaluations()
        promised(policies)
    return figures
