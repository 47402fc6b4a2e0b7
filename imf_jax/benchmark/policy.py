"""Time of a training step and of a plan of the head, against a plain JAX port and, if given, a peer; in turns.

The sides share the process, the threads, the weights and the inputs, and must agree on the loss and the plan.
"""

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from imf_jax import seeds
from imf_jax.benchmark import plain_head
from imf_jax.config import AttnResConfig, ImfConfig, PolicyConfig
from imf_jax.cores import usable_cores
from imf_jax.errors import UserError
from imf_jax.models.encoders.torch_names import torch_state
from imf_jax.models.networks.attnres import AttnResHead
from imf_jax.models.objectives import imf, paths
from imf_jax.sim.tasks import get_task

_TASK = get_task("transfer")
ACTION_DIM = _TASK.robot.spaces.action_dim
CONDITION_DIM = _TASK.robot.spaces.state_dim + _TASK.env_state_dim
"""Robot state and the pose of one object."""

AGREEMENT = 1e-3
"""Largest difference between the sides, relative to the largest magnitude."""


@dataclass(frozen=True)
class Timing:
    """One measured quantity.

    Attributes:
        head: size of the head, "n_emb/n_layer".
        what: "training" (one step: loss and gradient) or "plan", with the batch size.
        side: "imf_jax", "plain JAX" or the peer's name.
        median_ms: median over the rounds [ms].
        ratio: median over the rounds of (time of this side / time of imf_jax); above 1 means that imf_jax is faster.
        compile_s: tracing and compilation [s]; None for a peer, which does both on its own.
    """

    head: str
    what: str
    side: str
    median_ms: float
    ratio: float
    compile_s: float | None


class Batch(NamedTuple):
    """Inputs of one measurement, float32 numpy: x, noise (B, H, A); r, t (B,); condition (B, Nc, C)."""

    x: Any
    noise: Any
    r: Any
    t: Any
    condition: Any


class Side(NamedTuple):
    """One implementation, ready to be timed. Calls return when the result is there."""

    name: str
    train: Callable[[], Any]
    plan: Callable[[], Any]
    train_compile_s: float | None
    plan_compile_s: float | None


def make_batch(size: int) -> Batch:
    """Random inputs; the first half of the rows has r = t, as in training."""
    random, horizons = np.random.default_rng(0), PolicyConfig()
    shape = (size, horizons.pred_horizon, ACTION_DIM)
    x, noise = random.normal(size=(2, *shape)).astype(np.float32)
    r, t = (np.asarray(time) for time in paths.sample_times(seeds.make_key(0), size, ImfConfig()))
    condition = random.normal(size=(size, horizons.obs_horizon, CONDITION_DIM)).astype(np.float32)
    return Batch(x, noise, r, t, condition)


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], Any], float]:
    """Compile a function and bind it to its arguments on the device; returns it and the time that took [s].

    The program takes plain arrays, so that calls do not time how Python walks the containers of a side.
    """
    arrays, structure = jax.tree.flatten(jax.device_put(arguments))
    start = time.perf_counter()
    program = jax.jit(lambda *arrays: function(*jax.tree.unflatten(structure, arrays))).lower(*arrays).compile()
    seconds = time.perf_counter() - start
    return lambda: jax.block_until_ready(program(*arrays)), seconds


def this_side(head: AttnResHead, train: Batch, plan: Batch) -> Side:
    """The side of `imf_jax.models`."""
    graph, weights = nnx.split(head)
    objective = ImfConfig()
    num_equal = paths.equal_rows(len(train.x), objective)

    def loss(weights: nnx.State, batch: Batch) -> jax.Array:
        z = paths.interpolate(batch.x, batch.noise, batch.t)
        velocity = nnx.merge(graph, weights)
        compound, _ = imf.batch_compound_velocity(velocity, z, batch.r, batch.t, batch.condition, num_equal)
        return imf.regression_loss(compound - (batch.noise - batch.x), jnp.zeros(z.shape[:2], bool), objective)

    def sample(weights: nnx.State, noise: jax.Array, condition: jax.Array) -> jax.Array:
        return paths.sample(nnx.merge(graph, weights), noise, condition, steps=1)

    step, step_s = compiled(jax.value_and_grad(loss), weights, train)
    act, act_s = compiled(sample, weights, plan.noise, plan.condition)
    return Side("imf_jax", step, act, step_s, act_s)


def plain_side(head: AttnResHead, train: Batch, plan: Batch) -> Side:
    """The side of the plain port."""
    sizes: Any = {"n_layer": head.config.n_layer, "n_head": head.config.n_head, "n_kv_head": head.config.n_kv_head}
    weights = torch_state(head)

    def sample(weights: plain_head.Weights, noise: jax.Array, condition: jax.Array) -> jax.Array:
        r, t = jnp.zeros(len(noise)), jnp.ones(len(noise))
        return noise - plain_head.velocity(weights, noise, r, t, condition, **sizes)

    step, step_s = compiled(jax.value_and_grad(partial(plain_head.loss, **sizes)), weights, *train)
    act, act_s = compiled(sample, weights, plan.noise, plan.condition)
    return Side("plain JAX", step, act, step_s, act_s)


READY_MADE = Path("torch")
"""Name of the peer that is part of this package: `imf_jax.benchmark.torch_head`."""


def peer_side(module: Path, head: AttnResHead, train: Batch, plan: Batch) -> Side:
    """The side of another implementation: the ready-made `torch`, or a reader's Python file.

    `build(config, weights, threads)` of the file gets the sizes (dict), the weights under their torch names (numpy) and
    the number of threads, and returns an object with `train_step(x, noise, r, t, condition) -> loss` (computes the
    gradient too) and `plan(noise, condition) -> chunk`, numpy in and numpy out.

    Raises:
        UserError: the file is not there, or has no `build`; PyTorch is not installed.
    """
    config = {**asdict(head.config), "condition_dim": head.condition_dim}
    peer = load_peer(module).build(config, torch_state(head), usable_cores())
    name = "PyTorch" if module == READY_MADE else module.stem
    return Side(name, lambda: peer.train_step(*train), lambda: peer.plan(plan.noise, plan.condition), None, None)


def load_peer(module: Path) -> Any:
    """Import what `--peer` names; see `peer_side`."""
    if module == READY_MADE:
        try:
            return importlib.import_module("imf_jax.benchmark.torch_head")
        except ModuleNotFoundError as error:
            raise UserError(
                f"--peer {module}: {error.name} is not installed; run `make parity` and use .venv-parity/bin/python, "
                "or install the extra: pip install 'imf_jax[peers]'"
            ) from None
    spec = importlib.util.spec_from_file_location(module.stem, module)
    if spec is None or spec.loader is None or not module.is_file():
        raise UserError(
            f"--peer {module} is no Python file; give the path of a file with a function `build`, or the ready-made "
            f"{READY_MADE}"
        )
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    if not hasattr(loaded, "build"):
        raise UserError(f"--peer {module} has no function `build(config, weights, threads)`; add one")
    return loaded


def measure(n_emb: int, n_layer: int, *, batch: int, plan_batch: int, rounds: int, peer: Path | None) -> list[Timing]:
    """Time every side at one size of the head.

    Args:
        n_emb: width.
        n_layer: layers.
        batch: rows of a training step.
        plan_batch: rows of a plan.
        rounds: calls of every side; plans, being short, are called ten times as often. The first is not counted.
        peer: see `peer_side`.

    Raises:
        UserError: the sides do not compute the same.
    """
    head = AttnResHead(AttnResConfig(n_emb=n_emb, n_layer=n_layer), ACTION_DIM, CONDITION_DIM, rngs=nnx.Rngs(0))
    queries = head.backbone.pseudo_queries
    queries[...] = 0.1 * seeds.normal(seeds.make_key(1), queries.shape)
    train, plan = make_batch(batch), make_batch(plan_batch)
    sides = [make(head, train, plan) for make in (this_side, plain_side)]
    if peer is not None:
        sides.append(peer_side(peer, head, train, plan))
    rows = []
    for what, call, count in (
        (f"training, batch {batch}", "train", rounds),
        (f"plan, batch {plan_batch}", "plan", 10 * rounds),
    ):
        check_agreement(what, [(side.name, getattr(side, call)()) for side in sides])
        seconds = take_turns([getattr(side, call) for side in sides], count, warm=call == "plan")
        for side, own in zip(sides, seconds, strict=True):
            ratio = statistics.median(theirs / ours for theirs, ours in zip(own, seconds[0], strict=True))
            median = 1e3 * statistics.median(own)
            compile_s = getattr(side, f"{call}_compile_s")
            rows.append(Timing(f"{n_emb}/{n_layer}", what, side.name, median, ratio, compile_s))
    return rows


REST = 0.01
"""Rest between two sides [s]: threads of PyTorch and of XLA go on spinning for a while after their work."""


def take_turns(calls: list[Callable[[], Any]], rounds: int, *, warm: bool = False) -> list[list[float]]:
    """Seconds of every call in every round; noise from elsewhere on the machine then hits all sides alike.

    Every round begins with another side, so that none always follows the same one.

    Args:
        calls: the sides.
        rounds: rounds.
        warm: call each side once more before it is timed, so that its threads are awake and its weights in the cache.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for round_ in range(rounds):
        for turn in range(len(calls)):
            side = (round_ + turn) % len(calls)
            time.sleep(REST)
            if warm:
                calls[side]()
            start = time.perf_counter()
            calls[side]()
            seconds[side].append(time.perf_counter() - start)
    return seconds


def check_agreement(what: str, results: list[tuple[str, Any]]) -> None:
    """Refuse to compare sides that compute different things: the first result, or the loss of (loss, gradient)."""
    values = [(name, np.asarray(value[0] if isinstance(value, tuple) else value)) for name, value in results]
    first = values[0][1]
    for name, value in values[1:]:
        difference = float(np.abs(value - first).max() / np.abs(first).max())
        if not difference < AGREEMENT:
            raise UserError(
                f"{what}: {name} differs from imf_jax by {difference:.1e} of the largest value; mend it first"
            )
