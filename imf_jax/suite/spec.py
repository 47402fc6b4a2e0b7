"""The file of a suite as it was written: what is varied, what is shared, what is measured.

```yaml
preset: transfer-state          # what every arm starts from
demonstrations: 300             # collected once for all; or a folder, or flags of collect.py
train: {max_steps: 2000}        # settings of all arms, by their name or dotted: policy.head.n_emb
grid:                           # every combination is an arm; seeds repeat it
  objective: [imf, flow]
  seed: [0, 1, 2]
evaluations:
  - {name: test, episodes: 500, sampling_steps: [1, 2]}      # any flag of eval.py; a list is varied
control: {objective: imf}       # what the others are compared with, on the same scenes
```

`arms`, a list of named groups of settings, is an axis like those of `grid`, and may stand beside it. A choice of an
axis is a value, or such a group.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imf_jax.config import require
from imf_jax.settings_file import read_settings, require_known

KEYS = ("name", "preset", "task", "demonstrations", "train", "grid", "arms", "evaluations", "control")
ARM = "arm"
"""Name of the axis that `arms` is."""
SEED = "seed"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Choice:
    """A choice of an axis.

    Attributes:
        label: its name, which can be part of the name of a folder.
        value: as it was written; of a group of settings its name.
        overrides: settings, as they were written.
    """

    label: str
    value: Any
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes:
        name: of the suite.
        path: its file.
        content: of the file.
        shared: settings of all arms, as they were written.
        axes: name -> its choices, without the seeds.
        seeds: of training; None for the one of the preset.
        evaluations: as they were written.
        control: what the arms are compared with, as it was written.
    """

    name: str
    path: Path
    content: Mapping[str, Any]
    shared: Mapping[str, Any]
    axes: Mapping[str, tuple[Choice, ...]]
    seeds: tuple[int, ...] | None
    evaluations: tuple[Mapping[str, Any], ...]
    control: Any


def read_suite(path: Path) -> Suite:
    """Read the file of a suite; settings are looked at by `imf_jax.suite.plan.make_plan`.

    Raises:
        UserError: it cannot be read.
        ArgumentError: a key is missing or not known, or of another shape; names it.
    """
    content = read_settings(path, "suite")
    require(isinstance(content, dict) and bool(content), f"{path} must be a mapping with: {', '.join(KEYS)}")
    require_known(content, KEYS, str(path))
    name = content.get("name", path.stem)
    require(_usable(name), f"{path}: the name {name!r} is unsafe for a folder; use letters, digits, '.', '_' and '-'")
    shared = _mapping(content, "train", path)
    shared |= {key: content[key] for key in ("preset", "task", "demonstrations") if key in content}
    grid = _mapping(content, "grid", path)
    require(ARM not in grid, f"{path}: name the groups of settings under `arms`, not under grid")
    seeds = grid.pop(SEED, None)
    arms = content.get("arms")
    require(
        arms is None or (isinstance(arms, list) and bool(arms) and all(isinstance(arm, dict) for arm in arms)),
        f"{path}: arms must be a list of mappings, each with a name and settings",
    )
    axes = {ARM: _choices(ARM, arms, path)} if arms else {}
    axes |= {axis: _choices(axis, values, path) for axis, values in grid.items()}
    require(bool(axes) or seeds is not None, f"{path} varies nothing; give a grid or a list of arms")
    evaluations = content.get("evaluations")
    require(
        isinstance(evaluations, list) and bool(evaluations) and all(isinstance(entry, dict) for entry in evaluations),
        f"{path}: evaluations must be a list of mappings, such as [{{name: test, episodes: 100}}]",
    )
    assert isinstance(evaluations, list)
    return Suite(
        name, path, content, shared, axes, _seeds(seeds, path), tuple(evaluations), content.get("control")
    )  # fmt: skip


def label_of(axis: str, value: Any) -> str:
    """Name of a value in names of arms: numbers are told apart by the last word of their axis."""
    if isinstance(value, str):
        text = value if NAME.fullmatch(value) else Path(value).name
    else:
        parts = value if isinstance(value, list) else [value]
        text = axis.rpartition(".")[2] + "-".join(str(part).lower() if part is not None else "none" for part in parts)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "value"


def _choices(axis: str, values: Any, path: Path) -> tuple[Choice, ...]:
    where = f"{path}: {axis if axis != ARM else 'arms'}"
    require(isinstance(values, list) and bool(values), f"{where} must be a list of what it can be")
    choices = []
    for value in values:
        if not isinstance(value, dict):
            choices.append(Choice(label_of(axis, value), value, {axis: value}))
            continue
        name = value.get("name")
        require(_usable(name), f"{where}: a group of settings needs a name of letters, digits, '.', '_' and '-'")
        choices.append(Choice(str(name), str(name), {key: value[key] for key in value if key != "name"}))
    labels = [choice.label.lower() for choice in choices]  # some file systems do not distinguish A from a
    twice = sorted({label for label in labels if labels.count(label) > 1})
    require(not twice, f"{where}: {', '.join(twice)} is there twice; give each a name of its own")
    return tuple(choices)


def _seeds(values: Any, path: Path) -> tuple[int, ...] | None:
    if values is None:
        return None
    whole = isinstance(values, list) and bool(values) and all(type(value) is int for value in values)
    require(whole, f"{path}: seed must be a list of whole numbers, such as [0, 1, 2]")
    require(len(set(values)) == len(values), f"{path}: a seed is given twice")
    return tuple(values)


def _mapping(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = content.get(key) or {}
    require(isinstance(value, dict), f"{path}: {key} must be a mapping")
    return {str(name): value for name, value in value.items()}


def _usable(name: Any) -> bool:
    return isinstance(name, str) and NAME.fullmatch(name) is not None and ".." not in name
