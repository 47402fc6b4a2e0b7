"""Evaluations of a suite: what is measured of every arm, as entries of the files that `eval.py --jobs` reads."""

import functools
import itertools
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imf_jax.config import EvalConfig, ExecutionConfig, TrainConfig, require
from imf_jax.config.perturbation import active, require_noticed
from imf_jax.errors import ArgumentError, UserError
from imf_jax.evaluation.jobs import job_name, read_entry, require_executable
from imf_jax.settings_file import require_known
from imf_jax.suite.spec import NAME, Choice, Suite, label_of

EVALUATION = "evaluation"
"""Axis of the names of evaluations."""

OWN = ("name", "only", "captures", "episodes", "seed", "seeds", "task")
"""Keys of an evaluation that are no flags, or have a place of their own in a file of jobs."""


@dataclass(frozen=True)
class Variant:
    """An evaluation with one value of each flag that is varied.

    Attributes:
        name: unique; also of its folder.
        evaluation: name of the evaluation it is of.
        varied: flag -> its value.
        job: entry of a file of jobs, without name and checkpoint.
        only: axis -> labels of the choices that it is for; other axes do not matter.
    """

    name: str
    evaluation: str
    varied: Mapping[str, Any]
    job: Mapping[str, Any]
    only: Mapping[str, tuple[str, ...]]

    def applies_to(self, choices: Mapping[str, Choice]) -> bool:
        """Whether an arm of these choices is evaluated so."""
        return all(choices[axis].label in labels for axis, labels in self.only.items())

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders of its results below that of the run: one per seed of the scenes."""
        seeds = self.job["seeds"]
        return tuple(job_name(self.name, seed, seeds) for seed in seeds)

    def scenes(self, task: str) -> tuple[int, tuple[int, ...], str]:
        """What says which scenes an arm of this task is evaluated on: episodes per seed, seeds, task."""
        return self.job["episodes"], tuple(self.job["seeds"]), self.job.get("task", task)


def make_variants(suite: Suite) -> tuple[Variant, ...]:
    """All evaluations of a suite, each list of values of a flag spread out.

    Raises:
        ArgumentError: two have one name, or one is for arms that do not exist.
    """
    variants = []
    for number, entry in enumerate(suite.evaluations, start=1):
        name = entry.get("name", "test" if len(suite.evaluations) == 1 else None)
        where = f"{suite.path}: evaluation {name or number}"
        usable = isinstance(name, str) and NAME.fullmatch(name) is not None and ".." not in name
        require(usable, f"{where} needs a name of letters, digits, '.', '_' and '-'")
        variants += _spread(suite, str(name), entry, where)
    names = [variant.name.lower() for variant in variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"{suite.path}: two evaluations are called {', '.join(twice)}; give each a name of its own")
    return tuple(variants)


def _spread(suite: Suite, name: str, entry: Mapping[str, Any], where: str) -> list[Variant]:
    require(not {"seed", "seeds"} <= set(entry), f"{where} has both seed and seeds; keep one")
    seeds = entry.get("seeds", [entry.get("seed", 0)])
    require(isinstance(seeds, list) and bool(seeds), f"{where}: seeds must be a list of whole numbers, such as [0, 1]")
    shared = {key: entry[key] for key in ("captures", "task") if key in entry}
    shared |= {"episodes": entry.get("episodes", EvalConfig.episodes), "seeds": seeds}
    flags = {str(key).replace("-", "_"): value for key, value in entry.items() if key not in OWN}
    varied = {flag: value for flag, value in flags.items() if _is_varied(flag, value)}
    # Levels are an axis of the name of their perturbation: {perturb: {push: [0, 0.5]}}.
    perturb = flags.get("perturb") if isinstance(flags.get("perturb"), dict) else {}
    assert isinstance(perturb, dict)
    varied |= {str(name): levels for name, levels in perturb.items() if isinstance(levels, list)}
    require(all(varied.values()), f"{where}: an empty list leaves nothing to evaluate")
    clash = sorted(set(varied) & set(suite.axes))
    require(not clash, f"{where}: {', '.join(clash)} is varied in the grid as well; vary it in one place")
    only = _only(suite, entry.get("only"), where)
    variants = []
    for values in itertools.product(*varied.values()):
        chosen = dict(zip(varied, values, strict=True))
        label = "_".join([name, *(label_of(flag, value) for flag, value in chosen.items())])
        overrides = {**flags, **{flag: value for flag, value in chosen.items() if flag not in perturb}}
        if perturb:
            overrides["perturb"] = {name: chosen.get(name, level) for name, level in perturb.items()}
        variants.append(Variant(label, name, chosen, {**shared, "overrides": overrides}, only))
    return variants


def _is_varied(flag: str, value: Any) -> bool:
    """Whether a list is one of values; of a flag that takes a list itself only a list of lists is."""
    if not isinstance(value, list):
        return False
    takes_list = flag in _list_flags()
    return not takes_list or (bool(value) and all(isinstance(part, list) for part in value))


def _list_flags() -> set[str]:
    hints = typing.get_type_hints(EvalConfig) | typing.get_type_hints(ExecutionConfig)
    return {name for name, hint in hints.items() if "tuple[" in str(hint)}


def _only(suite: Suite, only: Any, where: str) -> dict[str, tuple[str, ...]]:
    if only is None:
        return {}
    require(isinstance(only, dict), f"{where}: only must be a mapping of axes to choices, such as {{objective: [imf]}}")
    require_known(only, list(suite.axes), f"{where}: only")
    found = {}
    for axis, values in only.items():
        found[axis] = tuple(
            label_of_choice(suite.axes[axis], value, f"{where}: only {axis}")
            for value in (values if isinstance(values, list) else [values])
        )
    return found


def label_of_choice(choices: Sequence[Choice], value: Any, where: str) -> str:
    """The label of the choice that is called so, or has this value.

    Raises:
        ArgumentError: there is none; names the nearest.
    """
    for choice in choices:
        if value in (choice.label, choice.value):
            return choice.label
    require_known([str(value)], [str(choice.value) for choice in choices], where)
    raise AssertionError("a value that is known has been found above")


def arm_jobs(variants: Sequence[Variant], config: TrainConfig, run: Path, where: str) -> tuple[dict[str, Any], ...]:
    """The entries of the file of jobs of a run, all checked.

    Args:
        variants: the evaluations.
        config: of the training.
        run: its folder.
        where: of which arm, for messages.

    Raises:
        ArgumentError: a flag is not known or cannot work for this policy; names the evaluation and the flag.
    """
    jobs = []
    for variant in variants:
        job = {"name": variant.name, "checkpoint": str(run), "task": config.task, **variant.job}
        for found in read_entry(job, f"{where}: evaluation", 0, EvalConfig(checkpoint=run)):
            try:
                require_executable(found.config, config.policy)
                require_perturbable(found.config, config)
            except UserError as error:
                raise ArgumentError(f"{where}: evaluation {found.name}: {error}") from None
        jobs.append(job)
    return tuple(jobs)


def require_perturbable(evaluation: EvalConfig, training: TrainConfig) -> None:
    """Refuse a perturbation of what the task or the policy does not have.

    Raises:
        ArgumentError: names the perturbation.
    """
    levels = tuple(active(evaluation.perturb).items())
    if levels:
        _require_perturbable(evaluation.task or training.task, levels, bool(training.policy.encoder.cameras))


@functools.cache
def _require_perturbable(task: str, levels: tuple[tuple[str, float], ...], sees: bool) -> None:
    from imf_jax.sim.backends.task_scene import TaskScene

    perturb = dict(levels)
    require_noticed(perturb, sees=sees, scripted=False)
    TaskScene(task, "primitive", perturb=perturb)


def axes_of(choices: Mapping[str, Choice], variant: Variant) -> dict[str, Any]:
    """Everything in which results of a suite may differ: axis -> the choice as it is shown."""
    return {
        **{axis: choice.value for axis, choice in choices.items()}, EVALUATION: variant.evaluation, **variant.varied,
    }  # fmt: skip
