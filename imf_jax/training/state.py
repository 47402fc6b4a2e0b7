"""What training changes, and the compiled function that changes it: many optimizer steps per call.

Every random number of a step follows from (seed, step), and the number of steps per call is an argument of one
compiled loop, so the result depends on neither how steps are grouped into calls nor where a run was resumed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from imf_jax.config import TrainConfig
from imf_jax.data.windows import Demonstrations, sample_windows
from imf_jax.models.policy import Policy
from imf_jax.training.optimizer import build_optimizer, update_average

Array = jax.Array

_INIT_STREAM = 0
_STEP_STREAM = 1

SUMMED = ("loss", "mse", "dudt_rms", "grad_norm")
"""Figures of a step that are summed until the next line of the log."""


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
        step: int32 scalar, optimizer steps taken.
        params: trainable weights, an `nnx.State`.
        optimizer: state of the optimizer.
        average: moving average of `params`, or None if it is off.
        sums: float32 scalars, `SUMMED` and `count`: sums over the steps since the last line of the log.
    """

    step: Array
    params: nnx.State
    optimizer: optax.OptState
    average: nnx.State | None
    sums: dict[str, Array]


class FrozenParts(NamedTuple):
    """What of a policy training does not change: its structure and its variables that are no weights."""

    graph: nnx.GraphDef[Policy]
    variables: nnx.State


def root_key(seed: int, stream: int) -> Array:
    """fold_in(key(seed), stream); the generator is named so that it does not follow JAX's default."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), stream)


def build_policy(config: TrainConfig, env_state_dim: int) -> Policy:
    """A policy with the initial weights of `config.seed`."""
    return Policy(config.policy, env_state_dim, rngs=nnx.Rngs(params=root_key(config.seed, _INIT_STREAM)))


def no_sums() -> dict[str, Array]:
    """`TrainState.sums` of no step."""
    return {name: jnp.zeros(()) for name in (*SUMMED, "count")}


def split_policy(policy: Policy) -> tuple[FrozenParts, nnx.State]:
    """What training leaves alone, and the trainable weights."""
    parts: Any = nnx.split(policy, nnx.Param, ...)
    graph, params, variables = parts
    return FrozenParts(graph, variables), params


def initial_state(policy: Policy, config: TrainConfig) -> tuple[TrainState, FrozenParts]:
    """The state before the first step. It shares no buffer with `policy`."""
    frozen, params = split_policy(policy)
    params = jax.tree.map(jnp.copy, params)
    optimizer = build_optimizer(config.optimizer, config.max_steps)
    average = jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else None
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average, no_sums())
    return state, frozen


def trained_policy(state: TrainState, frozen: FrozenParts) -> Policy:
    """The policy to act with: averaged weights if there are any, else the newest. Its buffers are copies."""
    weights = state.params if state.average is None else state.average
    return nnx.merge(frozen.graph, *jax.tree.map(jnp.copy, (weights, frozen.variables)))


RunSteps = Callable[[TrainState, nnx.State, Demonstrations, Array], TrainState]
"""(state, variables, demonstrations, count int32 scalar) -> state after `count` more steps; `state` is used up."""


def compile_run_steps(config: TrainConfig, state: TrainState, frozen: FrozenParts, data: Demonstrations) -> RunSteps:
    """Compile the training loop for arguments like these. It donates the buffers of the state it is given."""
    graph = frozen.graph
    optimizer = build_optimizer(config.optimizer, config.max_steps)
    head = config.policy.head
    key = root_key(config.seed, _STEP_STREAM)

    def one_step(state: TrainState, variables: nnx.State, data: Demonstrations) -> TrainState:
        window_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = sample_windows(
            data, window_key, config.batch_size, obs_horizon=head.obs_horizon, pred_horizon=head.pred_horizon
        )

        def loss_of(params: nnx.State) -> tuple[Array, dict[str, Array]]:
            return nnx.merge(graph, params, variables).loss(batch, loss_key)

        (loss, info), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            average = update_average(average, params, config.optimizer.ema_decay, state.step)
        figures = {**info, "loss": loss, "grad_norm": optax.tree.norm(gradient), "count": jnp.ones(())}
        sums = {name: total + figures[name] for name, total in state.sums.items()}
        return TrainState(state.step + 1, params, optimizer_state, average, sums)

    def run_steps(state: TrainState, variables: nnx.State, data: Demonstrations, count: Array) -> TrainState:
        # The trip count is dynamic on purpose: one program serves every count, so grouping cannot change rounding.
        return jax.lax.fori_loop(0, count, lambda _, carry: one_step(carry, variables, data), state)

    return jax.jit(run_steps, donate_argnums=0).lower(state, frozen.variables, data, jnp.int32(1)).compile()
