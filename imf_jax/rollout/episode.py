"""Records of episodes: one line of `episodes.jsonl` each."""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

from imf_jax.config import from_dict
from imf_jax.errors import UserError

SCHEMA_VERSION = 1
"""Version of the JSON line of an `EpisodeRecord`; raised when a field changes its meaning."""

Status = Literal["success", "failure", "timeout", "error"]
STATUSES: tuple[Status, ...] = ("success", "failure", "timeout", "error")


@dataclass(frozen=True)
class EpisodeRecord:
    """One finished episode; one line of `episodes.jsonl`.

    Attributes:
        episode: index of the episode; with `seed` it determines the scene.
        seed: seed of the keys (every split has its own range, see `split_seed`).
        env_slot: index of the episode's scene among those simulated at once.
        status: success, failure (the task cannot be done any more), timeout (`max_steps` reached) or error.
        steps: control steps with a finite outcome.
        start_step: first step on the slot's own time line, which counts the steps of all its episodes.
        end_step: last step on that time line, inclusive; `start_step - 1` for an episode without steps.
        return_: sum of rewards ("return" in JSON).
        max_reward: largest reward of a step, 0 without steps.
        max_stage: highest stage of a step, where it is not `max_reward`; else None.
        success_step: step of the episode, from 0, on which it succeeded; None otherwise.
        replans: plans executed.
        max_ik_error: largest distance [m] by which a commanded position had to be moved to become reachable.
        overflow_steps: control steps in which contacts or constraints exceeded the buffers of the simulator.
        error: what went wrong, for status "error" only.
        perturbations: name -> level of what the episode was perturbed by; absent in JSON if by nothing.
        artifacts: kind of capture -> path relative to the evaluation folder.
    """

    episode: int
    seed: int
    env_slot: int
    status: Status
    steps: int
    start_step: int
    end_step: int
    return_: float
    max_reward: float
    success_step: int | None
    replans: int
    max_ik_error: float = 0.0
    overflow_steps: int = 0
    max_stage: int | None = None
    error: str | None = None
    perturbations: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)

    @property
    def highest_stage(self) -> float:
        """Highest stage of a step."""
        return self.max_reward if self.max_stage is None else self.max_stage

    def to_json(self) -> str:
        """Serialise the record as one line of JSON, without the line break."""
        values = asdict(self)
        values["return"] = values.pop("return_")
        if self.max_stage is None:
            del values["max_stage"]
        if not self.perturbations:
            del values["perturbations"]
        return json.dumps({"schema": SCHEMA_VERSION, **values}, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "EpisodeRecord":
        """Read a line written by `to_json`; fields this version does not know are ignored.

        Raises:
            ValueError: no JSON object, a newer schema, or a field is missing or of another type.
        """
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError("an episode record must be a JSON object")
        version = values.get("schema")
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise ValueError(f"episode record of schema {version!r}; this version reads up to {SCHEMA_VERSION}")
        if "return" in values:
            values["return_"] = values.pop("return")
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        try:
            return from_dict(cls, known)
        except UserError as error:
            raise ValueError(f"episode record: {error}") from None
