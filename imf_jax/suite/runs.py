"""Runs of a suite: each is one of the commands that a user could type, in a process of its own."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imf_jax.checkpoints import CONFIG

Kind = Literal["demonstrations", "features", "training", "evaluation"]

MODULES: dict[Kind, str] = {
    "demonstrations": "imf_jax.commands.collect",
    "features": "imf_jax.commands.features",
    "training": "imf_jax.commands.train",
    "evaluation": "imf_jax.commands.eval",
}
"""Kind of run -> module that is its command."""

JOBS = "jobs.json"
"""File of the evaluations of a run, as `eval.py --jobs` reads it."""


@dataclass(frozen=True)
class Run:
    """One process of a suite.

    Attributes:
        name: unique; also that of its log file.
        kind: which command it is.
        folder: what it writes to; of cached features that of the demonstrations.
        flags: of its command, without --resume.
        settings: those by which a resumed suite checks that it is still the same, plain types.
        needs: names of the runs that must be done before.
        total: training steps, episodes or demonstrations.
        arm: name of its arm; None for work that arms share.
        seed: of training; None for work that arms share.
        jobs: of an evaluation: entries of its file of jobs.
    """

    name: str
    kind: Kind
    folder: Path
    flags: tuple[str, ...]
    settings: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    total: int = 0
    arm: str | None = None
    seed: int | None = None
    jobs: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def command(self) -> list[str]:
        """Words of the command line; a run that has begun is continued."""
        begun = self.kind == "evaluation" or (self.kind == "training" and (self.folder / CONFIG).is_file())
        # -P: files of the current folder must not hide packages of the same name.
        return [sys.executable, "-P", "-m", MODULES[self.kind], *self.flags, *(["--resume"] if begun else [])]
