"""Perturbations of an evaluation: what there is to choose from, what their levels mean, and the flag --perturb.

A new perturbation is one file with its class, in `imf_jax.sim.perturbations` or `imf_jax.rollout.perturbations`, and a
line in `PERTURBATIONS`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from imf_jax.config.base import nearest_known, require

_SCENE, _PLAN = "imf_jax.sim.perturbations", "imf_jax.rollout.perturbations"


@dataclass(frozen=True)
class Perturbation:
    """A perturbation that an evaluation can be run under.

    Attributes:
        place: its class, "package.module:Name": a `ScenePerturbation`, or a `PerturbedProgram`.
        text: what it changes, and what level 1 means, for people.
        most: the largest level.
        whole: levels are whole numbers.
        pictured: what it changes looks so in pictures, too; else it cannot be combined with a policy that sees them.
        changes: what of a policy's input it changes, if nothing else; a planner without that would not notice.
    """

    place: str
    text: str
    most: float = math.inf
    whole: bool = False
    pictured: bool = True
    changes: Literal["observations", "pictures"] | None = None

    @property
    def of_scene(self) -> bool:
        """It changes what is simulated; else what a planner sees or what becomes of its actions."""
        return self.place.startswith(_SCENE)


PERTURBATIONS: Mapping[str, Perturbation] = {
    "object-pose": Perturbation(
        f"{_SCENE}.object_pose:ObjectPose",
        "objects start outside of the range of the demonstrations: x, y and yaw are moved away from its middle by "
        "level x half its width; at 1 all of them are outside",
        most=1.0,
    ),
    "object-size": Perturbation(
        f"{_SCENE}.object_size:ObjectSize",
        "objects are larger or smaller by a factor 1.25^u, u uniform in -level .. level; their masses stay",
        pictured=False,
    ),
    "object-mass": Perturbation(
        f"{_SCENE}.object_mass:ObjectMass",
        "each object is heavier or lighter by a factor 2^u, u uniform in -level .. level",
    ),
    "friction": Perturbation(
        f"{_SCENE}.friction:Friction",
        "all contacts have more or less friction by a factor 2^u, u uniform in -level .. level",
    ),
    "servo-gain": Perturbation(
        f"{_SCENE}.servo_gain:ServoGain",
        "each servo answers more or less strongly by a factor 2^u, u uniform in -level .. level",
    ),
    "push": Perturbation(
        f"{_SCENE}.push:Push",
        "one object is pushed once: its velocity changes by level x 1 m/s in a horizontal direction, at a moment in "
        "the first quarter of the time limit",
    ),
    # The rest wraps the planner, the first one next to it: what it sees goes from the last line to the first, its
    # actions from the first to the last.
    "dropped-frames": Perturbation(
        f"{_PLAN}.dropped_frames:DroppedFrames",
        "each observation is lost with probability level, and the last one that came is seen again, for at most 10 "
        "control steps",
        most=1.0,
        changes="observations",
    ),
    "observation-noise": Perturbation(
        f"{_PLAN}.observation_noise:ObservationNoise",
        "white noise on all that the policy observes: standard deviation level x 0.01 (m, rad) on states, level x 10 "
        "of 255 on pictures",
        changes="observations",
    ),
    "lighting": Perturbation(
        f"{_PLAN}.lighting:Lighting",
        "pictures are brighter or darker and of more or less contrast by factors 1.5^u, and tinted by 1.2^u of each "
        "colour, u uniform in -level .. level",
        changes="pictures",
    ),
    "camera-pose": Perturbation(
        f"{_PLAN}.camera_pose:CameraPose",
        "each camera is turned about its centre: standard deviation level x 1 degree about each axis",
        changes="pictures",
    ),
    "action-noise": Perturbation(
        f"{_PLAN}.action_noise:ActionNoise",
        "white noise on each action: standard deviation level x 0.01 m on positions, level x 0.03 rad on orientations, "
        "level x 0.01 rad on joints; none on grippers",
    ),
    "control-delay": Perturbation(
        f"{_PLAN}.control_delay:ControlDelay",
        "each action reaches the servos level control steps late, and the planner does not know; whole numbers",
        most=50,
        whole=True,
    ),
}
"""Name on the command line -> perturbation."""


def active(perturb: Mapping[str, float]) -> dict[str, float]:
    """Perturbations that change anything, in the order of `PERTURBATIONS`. Level 0 is no perturbation."""
    return {name: perturb[name] for name in PERTURBATIONS if perturb.get(name)}


def perturbation_text(perturb: Mapping[str, float]) -> str:
    """Names and levels in a few words: "object-mass 1, push 0.5"; empty if nothing is perturbed."""
    return ", ".join(f"{name} {level:g}" for name, level in active(perturb).items())


def require_perturbations(perturb: Mapping[str, float]) -> None:
    """Refuse names that are not known, and levels that a perturbation cannot have.

    Raises:
        ArgumentError: names the nearest known perturbation, or the levels that are possible.
    """
    for name, level in perturb.items():
        hint = nearest_known(name, PERTURBATIONS, cutoff=0.4)  # so that "mass" is answered with object-mass
        require(name in PERTURBATIONS, f"--perturb {name}: there is no such perturbation; {hint}")
        kind = PERTURBATIONS[name]
        possible = math.isfinite(level) and 0 <= level <= kind.most and (not kind.whole or level == int(level))
        numbers = "a whole number" if kind.whole else "a number"
        limit = "at least 0" if math.isinf(kind.most) else f"in [0, {kind.most:g}]"
        require(possible, f"--perturb {name}={level:g}: the level must be {numbers} {limit}")


def require_noticed(perturb: Mapping[str, float], *, sees: bool, scripted: bool) -> None:
    """Refuse perturbations that a planner would not notice, or that its pictures would not show.

    Args:
        perturb: name -> level.
        sees: the planner reads pictures.
        scripted: it is a scripted expert.

    Raises:
        ArgumentError: names the perturbation.
    """
    for name in active(perturb):
        kind = PERTURBATIONS[name]
        require(sees or kind.changes != "pictures", f"--perturb {name} would do nothing: this policy sees no pictures")
        require(
            not scripted or kind.changes != "observations",
            f"--perturb {name} would do nothing: the scripted expert reads the state of the simulator; give a "
            "--checkpoint",
        )
        require(
            kind.pictured or not sees,
            f"--perturb {name}: pictures would not show it; evaluate a policy that reads the scene state instead",
        )


def _parse(values: list[str]) -> dict[str, float]:
    levels: dict[str, float] = {}
    for value in values:
        name, _, level = value.partition("=")
        try:
            number = float(level)
        except ValueError:
            number = math.nan
        require(not math.isnan(number), f"--perturb {value} must be NAME=LEVEL, for example --perturb object-mass=1")
        require(name not in levels, f"--perturb names {name} twice; give it one level")
        levels[name] = number
    return levels


_HELP = "\n".join(
    [
        "Conditions that the policy was not trained for, each with a level; 0 changes nothing. Several can be given.",
        *(f"{name}: {kind.text}." for name, kind in PERTURBATIONS.items()),
    ]
)

PerturbFlag = Annotated[
    dict[str, float],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=LEVEL [NAME=LEVEL ...]",
        instance_from_str=_parse,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda levels: [f"{name}={level:g}" for name, level in levels.items()],
        _action="append",
    ),
    tyro.conf.arg(help=_HELP),
]
"""Name -> level, on command lines --perturb NAME=LEVEL, with several values and several times."""
