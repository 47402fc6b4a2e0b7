"""The whole benchmark of the closed loop: its policies, sizes, order of measurements and results."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

from imf_jax.benchmark.device_figures import DeviceFigure, measure_device, on_cuda
from imf_jax.benchmark.evaluation import EvaluationFigures, measure_evaluation
from imf_jax.benchmark.random_walk import Wanderer, untrained_policy
from imf_jax.benchmark.rollouts import LoopFigures, MeasuredPolicy, ScalingFigures, measure_loop, measure_scaling
from imf_jax.benchmark.tables import Table
from imf_jax.checkpoints import load_policy
from imf_jax.config import IMAGE_SIZE, RendererName, require
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.sim.tasks import get_task, task_names

TASK = "transfer"


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
    (True, True): Usual(batch=256, steps=200, scaling_steps=200),
}


class RolloutFigures(NamedTuple):
    """All measured figures."""

    loops: list[LoopFigures]
    scaling: list[ScalingFigures]
    device: list[DeviceFigure]
    evaluation: list[EvaluationFigures]

    def tables(self) -> list[Table]:
        """The figures as tables."""
        loops, scaling, device, evaluation = ([asdict(row) for row in rows] for rows in self)
        tables = [
            Table(
                "Closed loop; share = sum of its parts / loop; ratio = loop / one scene at a time", loops, upright=True
            ),
            Table("Closed loop over batch sizes", scaling),
            Table("Promised for one GPU", device),
        ]
        if evaluation:  # there is none of a task without an expert
            tables.append(Table("Evaluation of the disturbed expert; ratio = loop / its frozen form", evaluation))
        return tables


def untrained_policies(
    sizes: Sequence[tuple[int, int]],
    camera_size: tuple[int, int] | None,
    *,
    image_size: int = IMAGE_SIZE,
    task: str = TASK,
) -> list[MeasuredPolicy]:
    """Untrained policies of a task.

    Args:
        sizes: width and layers of policies without cameras.
        camera_size: width and layers of a policy that sees three cameras; None for no such policy.
        image_size: height and width of its pictures [pixels].
        task: the task.
    """
    make_planner, found = partial(Wanderer, task=task), []
    for width, layers in sizes:
        policy = untrained_policy(width, layers, get_task(task))
        found.append(MeasuredPolicy(f"state, {width}/{layers}", policy, make_planner, task))
    if camera_size is not None:
        width, layers = camera_size
        policy = untrained_policy(width, layers, get_task(task), cameras=True, image_size=image_size)
        found.append(MeasuredPolicy(f"three cameras, LEWM grid, {width}/{layers}", policy, make_planner, task))
    return found


def usual_camera_size() -> tuple[int, int]:
    """Width and layers of the head of the policy that sees, unless the user asks for others."""
    return (384, 12) if on_cuda() else (128, 4)


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
    renderer: RendererName = "warp",
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
        renderer: what makes the pictures.
        say: receives a line when something begins.
        on_figures: receives what is known so far whenever something ends.

    Raises:
        ArgumentError: see `measure_loop`; or a renderer that would render nothing.
    """
    require(
        renderer == "warp" or any(measured_policy.cameras for measured_policy in policies),
        f"--renderer {renderer} would render nothing: no policy that is measured sees pictures",
    )
    figures = RolloutFigures([], [], [], [])
    for measured_policy in policies:
        usual = USUAL[on_cuda(), bool(measured_policy.cameras)]
        pictures: RendererName = renderer if measured_policy.cameras else "warp"
        say(f"{measured_policy.label}: closed loop, its parts, and one scene at a time")
        figures.loops.append(
            measure_loop(
                measured_policy,
                backend,
                batch=batch or usual.batch,
                steps=steps or usual.steps,
                repeats=repeats,
                renderer=pictures,
            )
        )
        on_figures(figures)
        say(f"{measured_policy.label}: batch sizes 1 to {max_batch}")
        figures.scaling.extend(
            measure_scaling(
                measured_policy,
                backend,
                max_batch=max_batch,
                steps=steps or usual.scaling_steps,
                repeats=repeats,
                max_seconds=max_seconds / len(policies),
                renderer=pictures,
            )
        )
        on_figures(figures)
    for task in dict.fromkeys(measured_policy.task for measured_policy in policies):
        if get_task(task).expert is not None:
            say(f"{task}: an evaluation whose episodes end at different times")
            size = batch or USUAL[on_cuda(), False].batch
            figures.evaluation.append(measure_evaluation(task, backend, batch=size))
            on_figures(figures)
    say("promised figures of a GPU")
    figures.device.extend(
        measure_device(policies, figures.scaling, backend, max_seconds=max_seconds, renderer=renderer)
    )
    return figures
