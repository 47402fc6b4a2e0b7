"""Diffusion: a network that tells the noise of a chunk, trained at T noise levels, and DDIM sampling with it.

At level k a chunk is z = sqrt(a_k) x + sqrt(1 - a_k) e. The loss is the mean squared error of e, or of
v = sqrt(a_k) e - sqrt(1 - a_k) x, over k, e and x. A plan goes through N levels from the last one down: from what is
predicted of x and e at one of them follows z at the next, and in the end x.

Formulas: Ho et al., "Denoising Diffusion Probabilistic Models" (2020); Nichol and Dhariwal, "Improved DDPM" (2021), the
squared cosine schedule; Song et al., "Denoising Diffusion Implicit Models" (2021), with eta 0; Salimans and Ho,
"Progressive Distillation" (2022), v; Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (2024),
sampling that begins at the last level. As in Chi et al., "Diffusion Policy" (2023), predicted actions are clipped; the
noise then follows from z and the clipped x, so that both still make up z. With the noise as it was predicted, z loses
at every level what was clipped, and plans get worse with more levels: docs/benchmarks/objectives.md.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from imf_jax import seeds
from imf_jax.config import DiffusionConfig
from imf_jax.models.objectives.paths import Chunk, Guide, Network, mean_over_steps

Array = jax.Array

LARGEST_BETA = 0.999
"""Largest share of variance that one level adds."""


def signal_shares(train_steps: int) -> Float[np.ndarray, " {train_steps}"]:
    """Share a_k of the variance of a chunk that is data at noise level k, float64 (T,): the squared cosine schedule."""
    angle = (np.arange(train_steps + 1) / train_steps + 0.008) / 1.008 * np.pi / 2
    left = np.cos(angle) ** 2
    return np.cumprod(1 - np.minimum(1 - left[1:] / left[:-1], LARGEST_BETA))


def sampling_levels(train_steps: int, steps: int) -> Int[np.ndarray, " {steps}"]:
    """Noise levels of a plan, evenly spaced from the last one, T - 1, down; int (N,)."""
    return np.round(np.arange(train_steps, 0, -train_steps / steps)[:steps]).astype(int) - 1


@dataclass(frozen=True)
class Diffusion:
    """The objective with its network, see `imf_jax.models.generator.Generator`."""

    config: DiffusionConfig
    network: Network
    figures: ClassVar[tuple[str, ...]] = ()

    def loss(
        self,
        key: Key[Array, ""],
        x: Chunk,
        is_pad: Bool[Array, "B H"],
        condition: Float[Array, "B Nc D"],
        is_prefix: Bool[Array, "B H"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean squared error of the noise, or of v."""
        level_key, noise_key = seeds.split(key)
        level = seeds.randint(level_key, (x.shape[0],), 0, self.config.train_steps)
        share = jnp.asarray(signal_shares(self.config.train_steps), jnp.float32)[level][:, None, None]
        noise = seeds.normal(noise_key, x.shape)
        z = jnp.sqrt(share) * x + jnp.sqrt(1 - share) * noise
        if is_prefix is not None:
            z, is_pad = jnp.where(is_prefix[..., None], x, z), is_pad | is_prefix
        is_noise = self.config.prediction == "epsilon"
        target = noise if is_noise else jnp.sqrt(share) * noise - jnp.sqrt(1 - share) * x
        return mean_over_steps(jnp.square(self._predict(z, level, condition, is_prefix) - target), is_pad), {}

    def sample(
        self,
        noise: Chunk,
        condition: Float[Array, "B Nc D"],
        steps: int,
        is_prefix: Bool[Array, "B H"] | None = None,
        guide: Guide | None = None,
    ) -> Chunk:
        """Denoise in N levels; see the module."""
        assert guide is None, "there is no velocity to guide"
        shares = signal_shares(self.config.train_steps)
        levels = sampling_levels(self.config.train_steps, steps)
        now = shares[levels]
        after = np.append(now[1:], 1.0)

        def denoise(z: Chunk, at: tuple[Array, Array, Array]) -> tuple[Chunk, None]:
            level, share, next_share = at
            output = self._predict(z, jnp.full(z.shape[0], level), condition, is_prefix)
            data, rest = jnp.sqrt(share), jnp.sqrt(1 - share)
            is_noise = self.config.prediction == "epsilon"
            x = (z - rest * output) / data if is_noise else data * z - rest * output
            if self.config.clip is not None:
                x = jnp.clip(x, -self.config.clip, self.config.clip)
            e = (z - data * x) / rest
            z = jnp.sqrt(next_share) * x + jnp.sqrt(1 - next_share) * e
            return (z if is_prefix is None else jnp.where(is_prefix[..., None], noise, z)), None

        at: Any = jnp.asarray(levels), jnp.asarray(now, jnp.float32), jnp.asarray(after, jnp.float32)
        return jax.lax.scan(denoise, noise, at)[0]

    def _predict(
        self, z: Chunk, level: Int[Array, " B"], condition: Float[Array, "B Nc D"], is_prefix: Bool[Array, "B H"] | None
    ) -> Chunk:
        """Output of the network; its time is 1 at the last level, where there is nothing but noise."""
        time = (level + 1) / self.config.train_steps
        return self.network(z, time, time, condition, *(() if is_prefix is None else (is_prefix,)))
