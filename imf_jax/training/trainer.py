"""Training loop: compiled steps, with log lines, validations and checkpoints at their steps."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from imf_jax.config import PretrainConfig, TrainConfig
from imf_jax.errors import UserError
from imf_jax.models.policy import FrozenParts
from imf_jax.training.clock import TrainingClock
from imf_jax.training.optimizer import learning_rate_schedule
from imf_jax.training.progress import TrainingProgress
from imf_jax.training.state import RunStep, RunSteps, TrainState, compile_run_steps, no_sums, trained_policy
from imf_jax.training.trackers import Trackers
from imf_jax.training.validation import Validation, validation_line

CALL_TIME = 0.4
"""Aimed duration of one call of the compiled loop [s]: short enough for Ctrl-C and the progress bar."""

Array = jax.Array

Validate = Callable[[Any, int], Validation | None]
"""(policy or other module that is trained, step) -> its result; None if it was stopped early."""

Save = Callable[[TrainState, dict[str, float] | None], None]
"""Write a checkpoint of a state and of its validation, if there was one."""


@dataclass
class TrainingSummary:
    """Summary of a call of `Trainer.run`.

    Attributes:
        state: the state it ended with.
        interrupted: it was asked to stop before the last step.
        compile_s: time of the compilation [s].
        steps_per_s: steps per second, without compilation, validation and checkpoints.
        step_share: share of that time spent in the compiled step, in 0..1.
    """

    state: TrainState
    interrupted: bool = False
    compile_s: float = 0.0
    steps_per_s: float = 0.0
    step_share: float = 0.0


@dataclass
class Trainer:
    """Trainer of one run, from the state it is given to `config.max_steps`.

    Attributes:
        config: the run.
        frozen: parts of the policy that are not trained.
        data: the demonstrations, or what else `compile` takes.
        figures: of a step, which the log gets the mean of.
        save: see `Save`.
        tracker: receives the figures.
        progress: shows them.
        validate: see `Validate`; None turns validation off.
        compile: compiles the steps.
        describe: the figures of a validation in one line.
        should_stop: asked between calls of the compiled loop; True ends the run with a checkpoint.
        pictures: of every step from that of the state on, where the compiled code is a `RunStep`.
    """

    config: TrainConfig | PretrainConfig
    frozen: FrozenParts
    data: Any
    figures: Sequence[str]
    save: Save
    tracker: Trackers
    progress: TrainingProgress
    validate: Validate | None = None
    should_stop: Callable[[], bool] = lambda: False
    compile: Callable[[Any, TrainState, FrozenParts, Any], RunSteps | RunStep] = compile_run_steps
    describe: Callable[[dict[str, float]], str] = validation_line
    pictures: Iterator[Any] | None = None
    _rate: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._schedule = jax.jit(learning_rate_schedule(self.config.optimizer, self.config.max_steps))

    def run(self, state: TrainState, *, validated: bool = False, saved: bool = False) -> TrainingSummary:
        """Train to the end, or until asked to stop; the last state is always in a checkpoint.

        Args:
            state: the state to start from; its buffers are donated.
            validated: the validation of its step, if one is due, has been done.
            saved: there is a checkpoint of it.

        Raises:
            UserError: the loss is not finite any more, and the newest checkpoint is from before; or a picture cannot be
                read, and the state is in a checkpoint.
        """
        step = int(state.step)
        started = time.perf_counter()
        run_steps = self.compile(self.config, state, self.frozen, self.data)
        self._schedule(0)
        compile_s = time.perf_counter() - started
        if step > 0 and not validated and self._validation_due(step) and not self.should_stop():
            # Killed or stopped between a step and its validation: make up for it.
            saved = self._validate_and_save(state, step)
        clock = TrainingClock()
        while step < self.config.max_steps and not self.should_stop():
            count = self._steps_of_call(step) if self.pictures is None else 1
            try:
                given = jnp.int32(count) if self.pictures is None else next(self.pictures)
            except UserError as error:  # a picture that cannot be decoded
                if not saved:
                    self.save(state, None)
                raise type(error)(f"{error}; the state of step {step} is kept for --resume") from None
            with clock.stepping(count):
                state = run_steps(state, self.frozen.variables, self.data, given)
                jax.block_until_ready(state)
            step += count
            saved = False
            self._show(state, step, clock)
            if self._log_due(step):
                self._log(state, step, clock)
                state = state._replace(sums=no_sums(self.figures))
            with clock.set_aside():
                if self._validation_due(step):
                    saved = self._validate_and_save(state, step)
                elif step % self.config.save_every == 0 or step == self.config.max_steps:
                    self.save(state, None)
                    saved = True
        interrupted = step < self.config.max_steps or (self._validation_due(step) and self.should_stop())
        if not saved:
            self.save(state, None)
        return TrainingSummary(state, interrupted, compile_s, **clock.total())

    def _steps_of_call(self, step: int) -> int:
        """Steps until the next log line, validation or checkpoint, but no more than fit in `CALL_TIME`."""
        config = self.config
        periods = [config.log_every, config.save_every]
        if self.validate is not None and config.validation.every:
            periods.append(config.validation.every)
        until_due = min(config.max_steps - step, *(period - step % period for period in periods))
        return min(until_due, max(1, round(self._rate * CALL_TIME)))

    def _log_due(self, step: int) -> bool:
        return step % self.config.log_every == 0 or step == self.config.max_steps

    def _validation_due(self, step: int) -> bool:
        if self.validate is None:
            return False
        every = self.config.validation.every
        return step == self.config.max_steps or (every > 0 and step % every == 0)

    def _show(self, state: TrainState, step: int, clock: TrainingClock) -> None:
        """Update the progress bar, and stop before a ruined state gets into a checkpoint."""
        sums = jax.device_get(state.sums)
        loss = float(sums["loss"] / sums["count"])
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is not finite at step {step}; resume from the checkpoint before with a lower "
                f"--optimizer.learning-rate in a new --out, or look for outliers in {self.config.data}"
            )
        self._rate = clock.last_rate
        self.progress.update(step, loss, self._rate)

    def _log(self, state: TrainState, step: int, clock: TrainingClock) -> None:
        sums = jax.device_get(state.sums)
        means = {name: float(sums[name] / sums["count"]) for name in self.figures}
        self.tracker.scalars(step, {**means, "learning_rate": float(self._schedule(step - 1)), **clock.line()})

    def _validate_and_save(self, state: TrainState, step: int) -> bool:
        """Validate, then save with the result; an interrupted validation leaves saving to the end of the run."""
        assert self.validate is not None
        self.progress.busy("validating")
        validation = self.validate(trained_policy(state, self.frozen), step)
        if validation is None:
            return False
        figures = validation.figures
        self.tracker.scalars(step, {f"validation/{name}": value for name, value in figures.items()})
        self.tracker.images(step, validation.images)
        self.progress.say(f"step {step}: validation {self.describe(figures)}")
        self.save(state, figures)
        return True
