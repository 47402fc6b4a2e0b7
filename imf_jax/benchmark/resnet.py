"""Time of a training step and of plans of a policy that trains ResNets along, against PyTorch, taking turns.

The sides share the process, the threads, the weights and the inputs, and must agree on loss and plan. Plans of this
package are made within a compiled loop, as in a compiled rollout; pictures are cut from their centre on both sides.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from imf_jax.benchmark.policy import Batch, Timing, check_agreement, compiled, make_batch, take_turns
from imf_jax.config import AttnResConfig, ImfConfig, PolicyConfig, ResNetEncoderConfig, require
from imf_jax.cores import usable_cores
from imf_jax.errors import UserError
from imf_jax.models.conditioning import ResNetConditioning
from imf_jax.models.encoders.torch_names import torch_state
from imf_jax.models.networks.attnres import AttnResHead
from imf_jax.models.objectives import imf, paths
from imf_jax.models.policy import Policy
from imf_jax.sim.tasks import get_task

if TYPE_CHECKING:
    from imf_jax.benchmark.torch_resnet import TorchResNetPolicy


class Inputs(NamedTuple):
    """Inputs, numpy: uint8 images (B, To, C, H, W, 3), float32 state (B, To, S), and those of the head.

    The condition of `head` is not used: it is what the encoder makes of the others.
    """

    images: Any
    state: Any
    head: Batch


def measure(
    name: str, config: PolicyConfig, *, batch: int, plan_batches: Sequence[int], rounds: int, peer: bool
) -> list[Timing]:
    """Time both sides.

    Args:
        name: of the policy, for messages and results.
        config: of the policy.
        batch: windows of a training step.
        plan_batches: rows of plans.
        rounds: calls of every side, after one that is not counted.
        peer: also measure PyTorch.

    Raises:
        ArgumentError: the policy is not of the kind that there is in PyTorch.
        UserError: the sides do not compute the same, or PyTorch is not installed.
    """
    policy = make_policy(name, config)
    torch_policy = make_peer(policy) if peer else None
    rows: list[Timing] = []
    for size in (None, *plan_batches):
        inputs = make_inputs(policy, size or batch)
        what = f"plan, batch {size}" if size else f"training, batch {batch}"
        call, compile_s = (plan if size else training_step)(policy, inputs)
        calls: dict[str, Callable[[], Any]] = {"imf_jax": call}
        if torch_policy is not None:
            act = partial(torch_policy.plan, inputs.images, inputs.state, inputs.head.noise)
            train = partial(torch_policy.train_step, inputs.images, inputs.state, *inputs.head[:4])
            calls["PyTorch"] = act if size else train
        check_agreement(f"{name}, {what}", [(side, call()) for side, call in calls.items()])
        seconds = dict(zip(calls, take_turns(list(calls.values()), rounds), strict=True))
        for side, own in seconds.items():
            ratio = statistics.median(theirs / ours for theirs, ours in zip(own, seconds["imf_jax"], strict=True))
            compiled_s = compile_s if side == "imf_jax" else None
            rows.append(Timing(name, what, side, 1e3 * statistics.median(own), ratio, compiled_s))
    return rows


def make_policy(name: str, config: PolicyConfig) -> Policy:
    """A policy of `transfer` with random weights.

    Raises:
        ArgumentError: it is not of the kind that there is in PyTorch.
    """
    encoder = config.encoder
    require(
        isinstance(config.head, AttnResConfig)
        and isinstance(config.objective, ImfConfig)
        and isinstance(encoder, ResNetEncoderConfig)
        and encoder.norm == "group"
        and not (encoder.shared or encoder.token_per_camera),
        f"{name} is no IMF-AttnRes policy with a ResNet of group normalisation per camera and one token per "
        "observation, the only kind that this compares; measure resnet or resnet-small",
    )
    task = get_task("transfer")
    return Policy(config, task.robot.spaces, task.env_state_dim, rngs=nnx.Rngs(0))


def make_inputs(policy: Policy, size: int) -> Inputs:
    """Random inputs of `size` rows."""
    encoder, steps = policy.config.encoder, policy.config.obs_horizon
    random = np.random.default_rng(0)
    shape = (size, steps, len(encoder.cameras), encoder.image_size, encoder.image_size, 3)
    state = random.normal(size=(size, steps, policy.spaces.state_dim)).astype(np.float32)
    return Inputs(random.integers(0, 256, shape, np.uint8), state, make_batch(size))


def training_loss(policy: Policy, inputs: Inputs) -> jax.Array:
    """Loss of a batch at given times and noise."""
    batch, objective = inputs.head, ImfConfig()
    condition = policy.condition({"images": inputs.images, "state": inputs.state})
    z = paths.interpolate(batch.x, batch.noise, batch.t)
    num_equal = paths.equal_rows(len(inputs.state), objective)
    compound, _ = imf.batch_compound_velocity(policy.head, z, batch.r, batch.t, condition, num_equal)
    return imf.regression_loss(compound - (batch.noise - batch.x), jnp.zeros(z.shape[:2], bool), objective)


def training_step(policy: Policy, inputs: Inputs) -> tuple[Callable[[], Any], float]:
    """Compiled loss and gradient, and the time to compile [s]."""
    parts: Any = nnx.split(policy, nnx.Param, ...)
    graph, weights, rest = parts

    def loss(weights: nnx.State, rest: nnx.State, inputs: Inputs) -> jax.Array:
        return training_loss(nnx.merge(graph, weights, rest), inputs)

    return compiled(jax.value_and_grad(loss), weights, rest, inputs)


def plan(policy: Policy, inputs: Inputs) -> tuple[Callable[[], Any], float]:
    """Compiled plan within a loop whose length the compiler does not know, and the time to compile [s]."""
    graph, variables = nnx.split(policy)

    def looped(variables: nnx.State, inputs: Inputs, count: jax.Array) -> jax.Array:
        def one(_: jax.Array, noise: jax.Array) -> jax.Array:
            merged = nnx.merge(graph, variables)
            condition = merged.condition({"images": inputs.images, "state": inputs.state})
            return paths.sample(merged.head, noise, condition, steps=1)

        return jax.lax.fori_loop(0, count, one, inputs.head.noise)

    return compiled(looped, variables, inputs, np.int32(1))


def make_peer(policy: Policy) -> "TorchResNetPolicy":
    """The same policy in PyTorch.

    Raises:
        UserError: PyTorch is not installed.
    """
    try:
        from imf_jax.benchmark.torch_resnet import TorchResNetPolicy
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; run `make parity` and use .venv-parity/bin/python, leave PyTorch out with "
            "--no-peer, or install the extra: pip install 'imf_jax[peers]'"
        ) from None
    assert isinstance(policy.conditioning, ResNetConditioning)
    assert isinstance(policy.head, AttnResHead)
    encoder = policy.conditioning.encoder
    stacked = nnx.to_pure_dict(nnx.state(encoder.network, nnx.Param))
    cameras = [jax.tree.map(lambda leaf, n=n: np.asarray(leaf[n]), stacked) for n in range(len(encoder.config.cameras))]
    sizes = asdict(policy.config.head)
    return TorchResNetPolicy(sizes, torch_state(policy.head), cameras, encoder.config.crop_size, usable_cores())
