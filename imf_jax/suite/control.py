"""Which result of a suite is compared with which: the control arm, on the same scenes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imf_jax.config import require
from imf_jax.settings_file import nearest
from imf_jax.suite.evaluations import EVALUATION, Variant, axes_of, label_of_choice
from imf_jax.suite.spec import Choice, Suite

Case = tuple[str, str]
"""A result: name of the arm, name of the variant of an evaluation."""


@dataclass(frozen=True)
class Comparisons:
    """Comparisons of a suite.

    Attributes:
        axes: of every result, see `axes_of`.
        control_of: result -> the one that it is compared with; results that are compared with none are not in it.
    """

    axes: Mapping[Case, Mapping[str, Any]]
    control_of: Mapping[Case, Case]


def make_comparisons(
    suite: Suite, arms: Mapping[str, Mapping[str, Choice]], tasks: Mapping[str, str], variants: Sequence[Variant]
) -> Comparisons:
    """Find the control of every result: the one that has the values of `control`, and otherwise its own.

    Args:
        suite: the file.
        arms: name -> its choices.
        tasks: name of an arm -> its task.
        variants: of the evaluations.

    Raises:
        ArgumentError: `control` names an axis, value or arm that does not exist, or nothing can be compared with it.
    """
    axes, scenes = {}, {}
    for name, choices in arms.items():
        for variant in variants:
            if variant.applies_to(choices):
                axes[name, variant.name] = axes_of(choices, variant)
                scenes[name, variant.name] = variant.scenes(tasks[name])
    if suite.control is None:
        return Comparisons(axes, {})
    control = _control(suite, arms, variants)
    control_of: dict[Case, Case] = {}
    for case, values in axes.items():
        wanted = {**values, **control}
        # What the wanted result does not have, such as a delay, is not asked for.
        found = [
            other
            for other, theirs in axes.items()
            if other != case
            and scenes[other] == scenes[case]
            and control.keys() <= theirs.keys()
            and all(wanted.get(axis) == value for axis, value in theirs.items())
        ]
        if len(found) == 1:
            control_of[case] = found[0]
    require(
        bool(control_of),
        f"{suite.path}: nothing can be compared with the control {suite.control!r}: no other result has its scenes "
        "(task, seeds, episodes) and otherwise the same values; name more of its axes, or leave control away",
    )
    return Comparisons(axes, control_of)


def _control(suite: Suite, arms: Mapping[str, Mapping[str, Choice]], variants: Sequence[Variant]) -> dict[str, Any]:
    """`control` as axis -> value."""
    where = f"{suite.path}: control"
    if not isinstance(suite.control, dict):
        return _named(suite, str(suite.control), arms, where)
    flags: dict[str, list[Any]] = {EVALUATION: [variant.evaluation for variant in variants]}
    for variant in variants:
        for flag, value in variant.varied.items():
            flags.setdefault(flag, []).append(value)
    control = {}
    for key, value in suite.control.items():
        axis = str(key)
        known = [*suite.axes, *flags]
        require(axis in known, f"{where}: {axis!r} is no axis of this suite{nearest(axis, known)}")
        if axis in suite.axes:
            label = label_of_choice(suite.axes[axis], value, f"{where} {axis}")
            control[axis] = next(choice.value for choice in suite.axes[axis] if choice.label == label)
        else:
            options = list(dict.fromkeys(map(str, flags[axis])))
            require(value in flags[axis], f"{where} {axis}: {value!r} is not evaluated{nearest(value, options)}")
            control[axis] = value
    return control


def _named(suite: Suite, name: str, arms: Mapping[str, Mapping[str, Choice]], where: str) -> dict[str, Any]:
    """The axes of an arm, or the one axis that has a choice of this name."""
    if name in arms:
        return {axis: choice.value for axis, choice in arms[name].items()}
    found = {
        axis: choice.value
        for axis, choices in suite.axes.items()
        for choice in choices
        if name in (choice.label, str(choice.value))
    }
    known = [*arms, *(choice.label for choices in suite.axes.values() for choice in choices)]
    require(bool(found), f"{where}: there is no arm {name!r}{nearest(name, known)}")
    require(len(found) == 1, f"{where}: {name!r} is a choice of {' and '.join(found)}; say which, as {{axis: value}}")
    return found
