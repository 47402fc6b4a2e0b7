"""Plan of a suite: its arms, and all runs with what each needs. Made and checked as a whole before anything runs."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imf_jax.config import CollectConfig, TrackerMode, TrackerName, TrainConfig, require, to_dict
from imf_jax.errors import ArgumentError, UserError
from imf_jax.suite.control import Comparisons, make_comparisons
from imf_jax.suite.demonstrations import Collections, collection_of
from imf_jax.suite.evaluations import Variant, arm_jobs, make_variants
from imf_jax.suite.runs import JOBS, Run
from imf_jax.suite.settings import build_config
from imf_jax.suite.spec import NAME, Choice, Suite

RUNS, EVALUATIONS, DEMONSTRATIONS = "runs", "evaluations", "demonstrations"
"""Folders of a suite."""

NO_SETTINGS = ("preset", "demonstrations")
"""Keys of an arm that are no fields of its configuration."""


@dataclass(frozen=True)
class Arm:
    """Combination of choices.

    Attributes:
        name: unique.
        choices: axis -> the choice.
        config: of its training, with the first seed.
        flags: of `train.py` that make it, without folders and seed.
        collection: demonstrations to collect for it; None if `config.data` is a folder that is there.
        variants: its evaluations.
    """

    name: str
    choices: Mapping[str, Choice]
    config: TrainConfig
    flags: tuple[str, ...]
    collection: CollectConfig | None
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Plan:
    """All of a suite, ready to run.

    Attributes:
        suite: the file.
        out: its folder.
        arms: in the order of the file.
        seeds: of training.
        variants: all evaluations.
        runs: in the order in which they start.
        comparisons: which results are compared with which.
    """

    suite: Suite
    out: Path
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    runs: tuple[Run, ...]
    comparisons: Comparisons


def run_name(arm: str, seed: int) -> str:
    """Name of the folders of an arm's training with a seed."""
    return f"{arm}_seed{seed}"


def make_plan(
    suite: Suite, out: Path, *, tracker: Sequence[TrackerName] = (), tracker_mode: TrackerMode = "online"
) -> Plan:
    """Plan the runs of a suite.

    Args:
        suite: the file.
        out: folder that receives them.
        tracker: trackers of the training runs.
        tracker_mode: see `RunConfig`.

    Raises:
        ArgumentError: an axis, key, arm, evaluation or control cannot work; one line that names it.
    """
    arms, variants = _arms(suite)
    seeds = suite.seeds or (arms[0].config.seed,)
    _require_seeds(arms, seeds, suite)
    comparisons = make_comparisons(
        suite, {arm.name: arm.choices for arm in arms}, {arm.name: arm.config.task for arm in arms}, variants
    )
    collections, runs = Collections(out / DEMONSTRATIONS), list[Run]()
    tracking = _tracker_flags(tracker, tracker_mode, suite)
    for seed, arm in itertools.product(seeds, arms):
        config, needs = arm.config, tuple[str, ...]()
        if arm.collection is not None:
            collected = collections.run_for(arm.collection)
            config, needs = replace(config, data=collected.folder), (collected.name,)
        needs = collections.with_features(arm.flags, config, needs)
        runs += _arm_runs(arm, seed, config, needs, out, tracking)
    return Plan(suite, out, arms, seeds, variants, (*collections.runs, *runs), comparisons)


def _arms(suite: Suite) -> tuple[tuple[Arm, ...], tuple[Variant, ...]]:
    arms = []
    for choices in itertools.product(*suite.axes.values()):
        name = "_".join(choice.label for choice in choices) or suite.name
        arms.append(_arm(suite, name, dict(zip(suite.axes, choices, strict=True))))
    names = [arm.name.lower() for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"{suite.path}: two arms are called {', '.join(twice)}; name their choices differently")
    variants = make_variants(suite)
    return tuple(_with_variants(suite, arm, variants) for arm in arms), variants


def _arm(suite: Suite, name: str, choices: Mapping[str, Choice]) -> Arm:
    where = f"{suite.path}: arm {name}"
    require(NAME.fullmatch(name) is not None, f"{where}: the name is too long for a folder; give its choices names")
    layers: list[Mapping[str, Any]] = [suite.shared, *(choice.overrides for choice in choices.values())]
    presets = [layer["preset"] for layer in layers if "preset" in layer]
    require(bool(presets), f"{where} has no preset; name one, such as `preset: transfer-state`")
    built = build_config(
        str(presets[-1]), [{key: layer[key] for key in layer if key not in NO_SETTINGS} for layer in layers], where
    )
    collection, folder = collection_of([layer.get("demonstrations") for layer in layers], built.config, where)
    config = built.config if folder is None else replace(built.config, data=folder)
    require_buildable(config, where)
    return Arm(name, choices, config, built.flags, collection, ())


def _with_variants(suite: Suite, arm: Arm, variants: Sequence[Variant]) -> Arm:
    """The arm with its evaluations, which are checked."""
    where = f"{suite.path}: arm {arm.name}"
    chosen = tuple(variant for variant in variants if variant.applies_to(arm.choices))
    require(bool(chosen), f"{where} has no evaluation; leave `only` of one away")
    arm_jobs(chosen, arm.config, Path(run_name(arm.name, 0)), where)
    return replace(arm, variants=chosen)


def require_buildable(config: TrainConfig, where: str) -> None:
    """Refuse a policy that cannot be built: for this task and robot, by its shapes; frozen encoders aside.

    Raises:
        ArgumentError: says why.
    """
    from imf_jax.suite.sizes import num_parameters

    try:
        num_parameters(config)
    except UserError as error:
        raise ArgumentError(f"{where}: {error}") from None


def _arm_runs(
    arm: Arm, seed: int, config: TrainConfig, needs: tuple[str, ...], out: Path, tracking: tuple[str, ...]
) -> Iterable[Run]:
    name = run_name(arm.name, seed)
    folder, results = out / RUNS / name, out / EVALUATIONS / name
    config = replace(config, seed=seed, out=folder)
    places = ("--data", str(config.data), "--out", str(folder), "--seed", str(seed))
    settings = to_dict(replace(config, data=Path(), out=Path()))
    training = Run(
        f"train {name}", "training", folder, (*arm.flags, *places, *tracking), settings, needs, config.max_steps,
        arm.name, seed,
    )  # fmt: skip
    jobs = arm_jobs(arm.variants, config, folder, arm.name)
    settings = {job["name"]: {key: job[key] for key in job if key != "checkpoint"} for job in jobs}
    episodes = sum(job["episodes"] * len(job["seeds"]) for job in jobs)
    flags = ("--jobs", str(results / JOBS), "--out", str(results), "--continue-on-error")
    evaluation = Run(
        f"evaluate {name}", "evaluation", results, flags, settings, (training.name,), episodes, arm.name, seed, jobs
    )
    return training, evaluation


def _require_seeds(arms: Sequence[Arm], seeds: Sequence[int], suite: Suite) -> None:
    try:
        for seed in seeds:
            replace(arms[0].config, seed=seed)
    except ArgumentError as error:
        raise ArgumentError(f"{suite.path}: {error}") from None


def _tracker_flags(names: Sequence[TrackerName], mode: TrackerMode, suite: Suite) -> tuple[str, ...]:
    return ("--tracker", *names, "--tracker-mode", mode, "--tracker-group", suite.name) if names else ()
