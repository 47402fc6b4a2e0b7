"""Training state, and the compiled function that updates it: many optimizer steps per call.

Every random number of a step follows from (seed, step), and the number of steps per call is an argument of one
compiled loop, so the result depends on neither how steps are grouped into calls nor where a run was resumed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from imf_jax import seeds
from imf_jax.config import PretrainConfig, TrainConfig
from imf_jax.data.picture_cache import PictureRows
from imf_jax.data.prefetch import picture_batches
from imf_jax.data.windows import Batch, Demonstrations, draw_steps, observed_steps, sample_windows
from imf_jax.models.policy import FrozenParts, split_policy
from imf_jax.seeds import STEP_STREAM, root_key
from imf_jax.training.optimizer import build_optimizer, update_average

Array = jax.Array


class TrainState(NamedTuple):
    """Training state: everything that a step changes.

    Attributes:
        step: int32 scalar, optimizer steps taken.
        params: trainable weights, an `nnx.State`.
        statistics: running statistics of batch normalisation, an `nnx.State`; empty where there is none.
        optimizer: state of the optimizer.
        average: moving average of `params` and `statistics` in one `nnx.State`, or None if it is off.
        sums: float32 scalars, the figures of a step (see `initial_state`) and `count`: sums over the steps since the
            last line of the log.
    """

    step: Array
    params: nnx.State
    statistics: nnx.State
    optimizer: optax.OptState
    average: nnx.State | None
    sums: dict[str, Array]


def no_sums(figures: Sequence[str]) -> dict[str, Array]:
    """Empty `TrainState.sums`, of no step."""
    return {name: jnp.zeros((), jnp.float32) for name in (*figures, "count")}


def acting_weights(state: TrainState) -> nnx.State:
    """Weights and running statistics to act with: their average if there is one, else the newest."""
    return nnx.merge_state(state.params, state.statistics) if state.average is None else state.average


def initial_state(module: Any, config: TrainConfig | PretrainConfig) -> tuple[TrainState, FrozenParts]:
    """Make the state before the first step. It shares no buffer with `module`.

    Args:
        module: a `Policy`, or another module with `loss` and with the names of what is logged of a step, `figures`.
        config: the run.
    """
    frozen, *changing = split_policy(module)
    params, statistics = jax.tree.map(jnp.copy, changing)
    optimizer = build_optimizer(config.optimizer, config.max_steps)
    average = jax.tree.map(jnp.copy, nnx.merge_state(*changing)) if config.optimizer.ema_decay else None
    state = TrainState(
        jnp.zeros((), jnp.int32), params, statistics, optimizer.init(params), average, no_sums(module.figures)
    )
    return state, frozen


def trained_policy(state: TrainState, frozen: FrozenParts) -> Any:
    """Build the policy to act with: averaged weights if there are any, else the newest. Its buffers are copies."""
    return nnx.merge(frozen.graph, *jax.tree.map(jnp.copy, (acting_weights(state), frozen.variables)))


RunSteps = Callable[[TrainState, nnx.State, Any, Array], TrainState]
"""(state, variables, data, count int32 scalar) -> state after `count` more steps; `state` is used up."""

Draw = Callable[[Any, Array], Any]
"""(data, typed JAX key) -> batch of a step; traced."""


def draw_windows(config: TrainConfig) -> Draw:
    """Draw of a policy's batch: windows of `Demonstrations`."""
    policy = config.policy

    def draw(data: Demonstrations, key: Array) -> Batch:
        return sample_windows(
            data, key, config.batch_size, obs_horizon=policy.obs_horizon, pred_horizon=policy.window_steps
        )

    return draw


def optimizer_step(
    config: TrainConfig | PretrainConfig, graph: nnx.GraphDef[Any], draw: Draw
) -> Callable[[TrainState, nnx.State, Any], TrainState]:
    """One step as a function of (state, variables, data).

    Args:
        config: the run.
        graph: of `FrozenParts`; its module has a method `loss(batch, key)`, see `Policy.loss`.
        draw: see `Draw`.
    """
    optimizer = build_optimizer(config.optimizer, config.max_steps)
    key = root_key(config.seed, STEP_STREAM)

    def one_step(state: TrainState, variables: nnx.State, data: Any) -> TrainState:
        draw_key, loss_key = _step_keys(key, state.step)
        batch = draw(data, draw_key)

        def loss_of(params: nnx.State) -> tuple[Array, tuple[dict[str, Array], nnx.State]]:
            # Variables can be updated only within the function that made them: make them anew.
            statistics = jax.tree.map(lambda leaf: leaf, state.statistics)
            module = nnx.merge(graph, params, statistics, variables)
            loss, info = module.loss(batch, loss_key)
            return loss, (info, nnx.state(module, nnx.BatchStat))

        (loss, (info, statistics)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            newest = nnx.merge_state(params, statistics)
            average = update_average(average, newest, config.optimizer.ema_decay, state.step)
        figures = {**info, "loss": loss, "grad_norm": optax.tree.norm(gradient), "count": jnp.ones((), jnp.float32)}
        assert figures.keys() == state.sums.keys(), "the figures of a module name what its loss returns"
        sums = {name: total + figures[name] for name, total in state.sums.items()}
        return TrainState(state.step + 1, params, statistics, optimizer_state, average, sums)

    return one_step


def training_program(config: TrainConfig, graph: nnx.GraphDef[Any]) -> jax.stages.Wrapped:
    """The training loop, to be compiled: a function of the arguments of `RunSteps`, the first of which it donates.

    See `optimizer_step` for the arguments.
    """
    one_step = optimizer_step(config, graph, draw_windows(config))

    def run_steps(state: TrainState, variables: nnx.State, data: Any, count: Array) -> TrainState:
        # The trip count is dynamic on purpose: one program serves every count, so grouping cannot change rounding.
        return jax.lax.fori_loop(0, count, lambda _, carry: one_step(carry, variables, data), state)

    return jax.jit(run_steps, donate_argnums=0)


def compile_run_steps(config: TrainConfig, state: TrainState, frozen: FrozenParts, data: Demonstrations) -> RunSteps:
    """Compile the training loop of a policy for arguments like these. It donates the buffers of the state it is given.

    Args:
        config: the run.
        state: the training state.
        frozen: the rest of what is trained, see `optimizer_step`.
        data: the demonstrations, on the device.
    """
    return training_program(config, frozen.graph).lower(state, frozen.variables, data, jnp.int32(1)).compile()


RunStep = Callable[[TrainState, nnx.State, Any, Any], TrainState]
"""(state, variables, data, what `StreamedDraw.batch` is handed) -> state after one more step; `state` is used up."""


@dataclass(frozen=True)
class StreamedDraw:
    """Draw of a batch whose pictures stay in main memory and are handed in. Both functions are traced.

    Attributes:
        rows: (data, typed JAX key) -> int32 (B, n), the rows of the pictures that the batch of this key reads; where
            pictures are decoded ahead int32 (B,), places in the pool.
        batch: (data, the same key, pictures of these rows uint8 (B, n, C, H, W, 3)) -> batch; where pictures are
            decoded ahead, the steps int32 (B,) at these places come with them.
    """

    rows: Callable[[Any, Array], Array]
    batch: Callable[[Any, Array, Any], Any]


def streamed_windows(config: TrainConfig) -> StreamedDraw:
    """Draw of a policy's batch: windows of `Demonstrations` without pictures, see `draw_windows`."""
    draw = draw_windows(config)

    def rows(data: Demonstrations, key: Array) -> Array:
        return observed_steps(data, draw_steps(data, key, config.batch_size), config.policy.obs_horizon)

    def batch(data: Demonstrations, key: Array, images: Array) -> Batch:
        window = draw(data, key)
        window["observation"]["images"] = images
        return window

    return StreamedDraw(rows, batch)


def streamed_step_program(
    config: TrainConfig | PretrainConfig, graph: nnx.GraphDef[Any], draw: StreamedDraw
) -> jax.stages.Wrapped:
    """A training step that is given its pictures, to be compiled: a function of the arguments of `RunStep`."""

    def one_step(state: TrainState, variables: nnx.State, data: Any, given: Any) -> TrainState:
        return optimizer_step(config, graph, lambda data, key: draw.batch(data, key, given))(state, variables, data)

    return jax.jit(one_step, donate_argnums=0)


def compile_streamed_step(
    config: TrainConfig | PretrainConfig,
    state: TrainState,
    frozen: FrozenParts,
    data: Any,
    *,
    draw: StreamedDraw,
    picture_shape: tuple[int, ...],
) -> RunStep:
    """Compile a training step that is given its pictures; `picture_shape`: (C, H, W, 3); see `compile_run_steps`."""
    rows = jax.eval_shape(draw.rows, data, jax.eval_shape(lambda: root_key(0, STEP_STREAM)))
    images = jax.ShapeDtypeStruct((*rows.shape, *picture_shape), jnp.uint8)
    return compile_given_step(config, state, frozen, data, draw=draw, given=images)


def compile_given_step(
    config: TrainConfig | PretrainConfig,
    state: TrainState,
    frozen: FrozenParts,
    data: Any,
    *,
    draw: StreamedDraw,
    given: Any,
) -> RunStep:
    """Compile a training step that is given something of the shapes and types of `given`; see `compile_run_steps`."""
    return streamed_step_program(config, frozen.graph, draw).lower(state, frozen.variables, data, given).compile()


def drawn_rows(config: TrainConfig | PretrainConfig, data: Any, draw: StreamedDraw) -> Callable[[np.ndarray], Array]:
    """What batches are drawn: numbers of training steps int32 (n,) -> `StreamedDraw.rows` of each, int32 (n, ...)."""
    key = root_key(config.seed, STEP_STREAM)
    return jax.jit(jax.vmap(lambda step: draw.rows(data, _step_keys(key, step)[0])))


def stream_pictures(
    config: TrainConfig | PretrainConfig, data: Any, images: PictureRows, draw: StreamedDraw, first: int
) -> Iterator[Array]:
    """The pictures of every training step from `first` on: those of the batch that the step itself draws.

    Args:
        config: the run.
        data: what batches are drawn from.
        images: uint8 (N, C, H, W, 3) of all steps, in main memory or on the disk.
        draw: see `StreamedDraw`.
        first: number of the first training step.

    Yields:
        uint8 (B, n, C, H, W, 3), on the default device.
    """
    return picture_batches(images, drawn_rows(config, data, draw), first, config.max_steps)


def _step_keys(key: Array, step: Array) -> tuple[Array, Array]:
    """Keys of a step: of its batch, and of its loss."""
    return seeds.split(seeds.fold_in(key, step))
