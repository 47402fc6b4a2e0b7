"""The programs that run on a device, with arguments of which only shapes are known: nothing is computed for them."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imf_jax.benchmark.lewm import SIZES
from imf_jax.config import (
    AttnResConfig,
    LewmEncoderConfig,
    PolicyConfig,
    PretrainConfig,
    StateEncoderConfig,
    TrainConfig,
    kind_name,
)
from imf_jax.data.clips import ClipData
from imf_jax.data.windows import Demonstrations
from imf_jax.models.encoders.lewm import config_dict
from imf_jax.models.encoders.preprocess import Fusion
from imf_jax.models.policy import FrozenParts, Policy, build_policy, unloaded_encoder
from imf_jax.models.world_model import LeWorldModel
from imf_jax.presets import load_preset
from imf_jax.rollout.loop_program import LoopProgram
from imf_jax.rollout.plan_program import PolicyProgram, policy_program
from imf_jax.seeds import INIT_STREAM, root_key
from imf_jax.sim.backends.warp import WarpBackend
from imf_jax.sim.tasks import get_task
from imf_jax.training.pretraining import streamed_clips
from imf_jax.training.state import TrainState, initial_state, streamed_step_program, training_program

MAX_STEPS = 200
REPLANS = 5
"""Of the loop: control steps of an episode, and plans per call. Its code depends on neither."""

DEMONSTRATION_STEPS = 1000
"""Steps of the demonstrations that a training step draws from."""


class Program(NamedTuple):
    """A function and its arguments.

    Attributes:
        name: how tables call it.
        function: a jitted function.
        arguments: pytrees of `jax.ShapeDtypeStruct`.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]

    def trace(self) -> Any:
        """Trace it, a `jax.stages.Traced`, in the forms that code chooses on CUDA."""
        with mock.patch.object(jax, "default_backend", return_value="gpu"):
            return self.function.trace(*self.arguments)


def spec(shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    """An array of which shape and dtype are known."""
    return jax.ShapeDtypeStruct(tuple(shape), dtype)


def on_device(device: Any, program: Program) -> Program:
    """The program with its arguments on a device."""
    sharding = NamedSharding(Mesh(np.array([device]), ("device",)), PartitionSpec())
    return program._replace(arguments=jax.tree.map(lambda leaf: leaf.update(sharding=sharding), program.arguments))


def preset_config(preset: str, fusion: Fusion | None = None) -> TrainConfig:
    """Configuration of a preset, with another layout of the pictures of a LEWM encoder if one is given."""
    config: TrainConfig = load_preset(preset)
    if fusion is None:
        return config
    assert isinstance(config.policy.encoder, LewmEncoderConfig)
    encoder = dataclasses.replace(config.policy.encoder, fusion=fusion)
    return dataclasses.replace(config, policy=dataclasses.replace(config.policy, encoder=encoder))


def without_pictures(config: TrainConfig) -> TrainConfig:
    """The configuration with the head as it is, conditioned on the state alone."""
    return dataclasses.replace(config, policy=dataclasses.replace(config.policy, encoder=StateEncoderConfig()))


def head_size(config: PolicyConfig) -> str:
    """Size of the network, as "384/12", after its kind if it is not the usual one."""
    kind = "" if isinstance(config.head, AttnResConfig) else f"{kind_name(config.head)} "
    return f"{kind}{config.head.size}"


def make_policy(config: TrainConfig) -> Policy:
    """The policy of a configuration; a frozen encoder has zeros in place of its weights."""
    task = get_task(config.task)
    frozen = config.policy.encoder
    encoder = unloaded_encoder(config.policy, config_dict(SIZES, "")) if isinstance(frozen, LewmEncoderConfig) else None
    return build_policy(config, task.robot.spaces, task.env_state_dim, encoder)


def abstract_planner(config: TrainConfig) -> tuple[PolicyProgram, Any]:
    """The planner of a configuration and the shapes of its weights."""
    return policy_program(nnx.eval_shape(lambda: make_policy(config)))


def plan(config: TrainConfig, scenes: int) -> Program:
    """Plan for so many scenes with a policy that sees no pictures."""
    program, weights = abstract_planner(config)
    task = get_task(config.task)
    observations = {
        "state": spec((scenes, program.obs_horizon, task.robot.spaces.state_dim), jnp.float32),
        "env_state": spec((scenes, program.obs_horizon, task.env_state_dim), jnp.float32),
    }

    def make_plan(weights: Any, observations: Any, seed: jax.Array, episodes: jax.Array, replans: jax.Array) -> Any:
        return program.plan(weights, (), observations, None, seed, episodes, replans)[0]

    counts = spec((scenes,), jnp.uint32)
    arguments = weights, observations, spec((), jnp.uint32), counts, counts
    return Program(f"plan {head_size(config.policy)}", jax.jit(make_plan), arguments)


def encode(fusion: Fusion, moments: int) -> Program:
    """Embed the three camera views of so many moments by the LEWM encoder, in its published sizes."""
    config = preset_config("lewm-384", fusion).policy
    graph, weights = nnx.split(nnx.eval_shape(lambda: unloaded_encoder(config, config_dict(SIZES, ""))))
    shape = moments, config.encoder.image_size, config.encoder.image_size, 3
    views = {name: spec(shape, jnp.uint8) for name in config.encoder.cameras}
    program = jax.jit(lambda weights, views: nnx.merge(graph, weights)(views))
    return Program(f"encoder, {fusion}", program, (weights, views))


def blank_demonstrations(config: TrainConfig) -> Demonstrations:
    """Demonstrations for a configuration, of zeros; with the features of a frozen encoder if it has one."""
    task, steps = get_task(config.task), DEMONSTRATION_STEPS
    sees = isinstance(config.policy.encoder, LewmEncoderConfig)
    return Demonstrations(
        action=jnp.zeros((steps, task.robot.spaces.action_dim)),
        state=jnp.zeros((steps, task.robot.spaces.state_dim)),
        env_state=jnp.zeros((steps, task.env_state_dim)),
        first=jnp.zeros(steps, jnp.int32),
        last=jnp.zeros(steps, jnp.int32),
        features=jnp.zeros((steps, SIZES.output)) if sees else None,
    )


def training(config: TrainConfig) -> Program:
    """The training loop; one step is one pass of it. A frozen encoder's features are cached, as in training."""
    state, frozen = nnx.eval_shape(lambda: initial_state(make_policy(config), config))
    name = f"training step {head_size(config.policy)}"
    program = training_program(config, frozen.graph)
    data = jax.eval_shape(lambda: blank_demonstrations(config))
    return Program(name, program, (state, frozen.variables, data, spec((), jnp.int32)))


def pretraining(config: PretrainConfig) -> Program:
    """A step of pre-training, which is given its pictures."""
    model, action_dim = config.model, get_task(config.task).robot.spaces.action_dim

    def begin() -> tuple[TrainState, FrozenParts]:
        module = LeWorldModel(model, action_dim, root_key(config.seed, INIT_STREAM))
        return initial_state(module, config)

    state, frozen = nnx.eval_shape(begin)
    program = streamed_step_program(config, frozen.graph, streamed_clips(config))
    steps, side = DEMONSTRATION_STEPS, model.image_size
    data = jax.eval_shape(lambda: ClipData(jnp.zeros((steps, action_dim)), jnp.zeros(steps, jnp.int32)))
    frames = (config.batch_size, model.history + 1, len(model.cameras), side, side, 3)
    arguments = state, frozen.variables, data, spec(frames, jnp.uint8)
    return Program(f"pre-training step {model.hidden}/{model.layers}", program, arguments)


def loop(config: TrainConfig, backend: WarpBackend, scenes: int, device: Any) -> tuple[Program, Program]:
    """Beginning and advance of the compiled loop. `device`: what it is compiled for, which need not be there."""
    planner, weights = abstract_planner(config)
    program = LoopProgram(backend, planner, max_steps=MAX_STEPS, replans=REPLANS, traced=False, devices=[device])
    constants = jax.tree.map(lambda leaf: spec(leaf.shape, leaf.dtype), backend.constants(scenes))
    started = constants, spec((scenes, 2), jnp.uint32), spec((scenes,), bool)
    batch = jax.eval_shape(program.begin, *started)
    arguments = constants, weights, spec((), jnp.uint32), spec((scenes,), jnp.uint32), batch
    sees = f"{len(planner.cameras)} cameras" if planner.cameras else "no camera"
    return (
        Program(f"begin, {sees}", program.begin, started),
        Program(f"advance, {sees}, {head_size(config.policy)}", program.advance, arguments),
    )


def warp_calls() -> dict[str, str]:
    """Targets of the custom calls by which programs traced so far run Warp -> the function of MJX behind each."""
    from mujoco.mjx.warp import ffi

    with ffi._JAX_CALLABLE_VARIADIC_TUPLE_REGISTRY_LOCK:
        registered = dict(ffi._JAX_CALLABLE_VARIADIC_TUPLE_REGISTRY)
    return {call.name: key[0].__name__.strip("_").removesuffix("_shim") for key, call in registered.items()}
