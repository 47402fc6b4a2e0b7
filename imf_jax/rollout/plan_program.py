"""What a planner computes, as pure functions of a batch of scenes: the programs of closed loops."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from typing_extensions import override

from imf_jax import seeds
from imf_jax.models.objectives.paths import Guide
from imf_jax.models.policy import Policy, Prefix
from imf_jax.seeds import noise_keys
from imf_jax.sim.backends.base import StepOutput
from imf_jax.spaces import RobotSpaces

CHUNK, CHUNK_BEGIN = "chunk", "chunk_begin"
"""Notes of a policy that keeps its chunks: the last one, float32 (B, H, A), and the control step of its first action,
int32 (B,), counted from the observation that it was planned from."""

KeptChunks = dict[str, jax.Array] | tuple[()]
"""These notes, or nothing where chunks are not kept."""


class PlanProgram:
    """Planner as pure functions of B scenes, for loops that are compiled as a whole.

    Subclasses are frozen dataclasses: equal programs share compiled code, and what differs between checkpoints comes in
    as `weights`.

    Attributes:
        obs_horizon: observations it reads: the newest and those before it.
        num_action_steps: actions of a plan, all of which are executed before the next plan.
        cameras: names of the cameras C whose pictures it reads; none are rendered for a planner without.
    """

    if TYPE_CHECKING:  # fields of dataclasses, or properties; at run time they would be taken for default values

        @property
        def obs_horizon(self) -> int: ...  # noqa: D102
        @property
        def num_action_steps(self) -> int: ...  # noqa: D102
        @property
        def cameras(self) -> tuple[str, ...]: ...  # noqa: D102

    def start(self, output: StepOutput) -> Any:
        """Memory of scenes that have just begun: a pytree of leaves (B, ...); empty by default."""
        return ()

    def plan(
        self,
        weights: Any,
        memory: Any,
        observations: dict[str, jax.Array],
        output: StepOutput,
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """Plan for B scenes. The result of a scene must not depend on the other scenes or on their order.

        Args:
            weights: arrays that differ between checkpoints of one program.
            memory: result of `start` or of the last plan.
            observations: see `imf_jax.rollout.planner.Observations`.
            output: output after the last step, leaves (B, ...).
            seed: uint32 scalar, seed of the rollout; with episode and replan it determines the planning noise.
            episodes: uint32 (B,) episode of each scene.
            replans: uint32 (B,) plans made before in the episode; 0 says that the episode has just begun.

        Returns:
            actions, float32 (B, num_action_steps, A); a scene whose plan is not finite ends as an error. And the next
            memory.
        """
        raise NotImplementedError

    def notes(self, memory: Any) -> dict[str, jax.Array]:
        """Name -> values (B, num_action_steps, ...) about the actions of the last plan; none by default.

        Those of `CHUNK` and `CHUNK_BEGIN` are about the plan as a whole.

        Args:
            memory: after that plan.
        """
        return {}

    def plan_error(self, episode: int, replan: int) -> str | None:
        """Why a plan of an episode is not finite, where the program knows; `replan`: plans made before it."""
        return None

    def chunk_bytes(self) -> int:
        """Memory [bytes] of what `notes` has of the last plan as a whole."""
        return 0

    def bytes_per_scene(self) -> int:
        """Memory [bytes], about, that the plan of one more scene needs, without what `encoder_bytes` counts."""
        return 4096

    def encoder_bytes(self, num_scenes: int) -> int:
        """Memory [bytes], about, that an encoder of pictures needs for so many scenes; it may work in blocks."""
        return 0


class ChunkProgram(PlanProgram):
    """Program that plans a whole chunk, of which a slice is executed.

    Attributes:
        pred_horizon: actions H of a chunk.
        delay_training: control steps by which its chunks can begin later than their observation.
        spaces: action and state of the robot.
        keep_chunks: note each chunk as it was planned, for captures.
    """

    if TYPE_CHECKING:

        @property
        def keep_chunks(self) -> bool: ...  # noqa: D102
        @property
        def pred_horizon(self) -> int: ...  # noqa: D102
        @property
        def delay_training(self) -> int: ...  # noqa: D102
        @property
        def spaces(self) -> RobotSpaces: ...  # noqa: D102

    def chunk(
        self,
        weights: Any,
        observations: dict[str, jax.Array],
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
        prefix: Prefix | None = None,
        *,
        delay: jax.Array | None = None,
        guide: Guide | None = None,
    ) -> jax.Array:
        """Whole chunk, float32 (B, H, A); index obs_horizon - 1 is the action at the time of the observation.

        See `Policy.plan` for prefix, delay and guide, of which a program may take none.
        """
        raise NotImplementedError

    @override
    def start(self, output: StepOutput) -> KeptChunks:
        if not self.keep_chunks:
            return ()
        return self.kept(jnp.zeros((len(output.state), self.pred_horizon, self.spaces.action_dim)), 0)

    @override
    def plan(
        self,
        weights: Any,
        memory: KeptChunks,
        observations: dict[str, jax.Array],
        output: StepOutput | None,
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
    ) -> tuple[jax.Array, KeptChunks]:
        chunk = self.chunk(weights, observations, seed, episodes, replans)
        first = self.obs_horizon - 1
        return chunk[:, first : first + self.num_action_steps], self.kept(chunk, 0)

    @override
    def notes(self, memory: KeptChunks) -> dict[str, jax.Array]:
        return dict(memory)

    @override
    def chunk_bytes(self) -> int:
        return 4 * (self.pred_horizon * self.spaces.action_dim + 1) if self.keep_chunks else 0

    def kept(self, chunk: jax.Array, delay: jax.Array | int) -> KeptChunks:
        """Notes of chunks (B, H, A) whose action obs_horizon - 1 is for `delay` control steps after the observation."""
        if not self.keep_chunks:
            return ()
        begin = jnp.broadcast_to(jnp.asarray(delay - (self.obs_horizon - 1), jnp.int32), (len(chunk),))
        return {CHUNK: chunk, CHUNK_BEGIN: begin}


@dataclass(frozen=True)
class PolicyProgram(ChunkProgram):
    """Plan of an IMF-AttnRes policy: noise, normalisation, vision encoder, network, the executed actions.

    Attributes:
        graph: the structure of the policy; its weights are the other half of `nnx.split`.
        obs_horizon, num_action_steps, cameras: see `PlanProgram`.
        pred_horizon: actions H of a chunk.
        delay_training: control steps by which its chunks can begin later.
        spaces: action and state of its robot.
        network_bytes: about the memory that the network needs for a chunk [bytes].
        encoded_bytes: about the memory that the vision encoder needs for the pictures of one observation [bytes].
        encoded_at_once: observations whose pictures it encodes at once; None for all.
        keep_chunks: note each chunk as it was planned, for captures.
    """

    graph: nnx.GraphDef[Policy]
    obs_horizon: int
    pred_horizon: int
    delay_training: int
    num_action_steps: int
    spaces: RobotSpaces
    cameras: tuple[str, ...]
    network_bytes: int
    encoded_bytes: int
    encoded_at_once: int | None
    keep_chunks: bool = False

    @override
    def chunk(
        self,
        weights: nnx.State,
        observations: dict[str, jax.Array],
        seed: jax.Array,
        episodes: jax.Array,
        replans: jax.Array,
        prefix: Prefix | None = None,
        *,
        delay: jax.Array | None = None,
        guide: Guide | None = None,
    ) -> jax.Array:
        policy = nnx.merge(self.graph, weights)
        keys = noise_keys(seed, episodes, replans)
        shape = self.pred_horizon, self.spaces.action_dim
        noise = jax.vmap(lambda key: seeds.normal(key, shape))(keys)
        return policy.plan({name: observations[name] for name in policy.reads}, noise, prefix, delay=delay, guide=guide)

    @override
    def bytes_per_scene(self) -> int:
        return self.network_bytes

    @override
    def encoder_bytes(self, num_scenes: int) -> int:
        observations = num_scenes * self.obs_horizon
        return self.encoded_bytes * min(observations, self.encoded_at_once or observations)


def policy_program(policy: Policy) -> tuple[PolicyProgram, nnx.State]:
    """Split a policy into its pure functions and its weights."""
    graph, weights = nnx.split(policy)
    config, encoder = policy.config, policy.config.encoder
    if policy.frozen_encoder is not None:
        encoded_bytes, at_once = policy.frozen_encoder.block_memory(encoder.image_size)
    else:  # a convolutional network holds some twenty values per pixel
        encoded_bytes, at_once = 4 * 20 * len(encoder.cameras) * encoder.image_size**2, None
    program = PolicyProgram(
        graph,
        config.obs_horizon,
        config.pred_horizon,
        config.delay_training,
        config.num_action_steps,
        policy.spaces,
        encoder.cameras,
        policy.head.bytes_per_chunk(3 * config.obs_horizon, config.pred_horizon),  # room for a token per camera
        encoded_bytes,
        at_once,
    )
    return program, weights
