"""The noise schedule and DDIM sampling of `imf_jax.models.objectives.diffusion` against the schedulers of diffusers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from imf_jax.config import DiffusionConfig
from imf_jax.models.objectives.diffusion import Diffusion, sampling_levels, signal_shares

LEVELS = 100
SETTINGS: dict[str, Any] = {"num_train_timesteps": LEVELS, "beta_schedule": "squaredcos_cap_v2", "clip_sample": True}
TYPES = {"epsilon": "epsilon", "v": "v_prediction"}
NOISE = np.random.default_rng(0).normal(size=(3, 8, 2)).astype(np.float32)


def test_the_schedule() -> None:
    theirs = DDPMScheduler(**SETTINGS).alphas_cumprod.numpy()
    np.testing.assert_allclose(signal_shares(LEVELS), theirs, rtol=2e-4, atol=1e-6)  # theirs is a product in float32


@pytest.mark.parametrize("prediction", TYPES)
def test_noised_chunks_and_targets(prediction: str) -> None:
    """The z that the network sees in training, and what it is compared with."""
    x = np.random.default_rng(1).uniform(-1, 1, NOISE.shape).astype(np.float32)
    seen: list[Any] = []

    def network(z: jax.Array, r: jax.Array, t: jax.Array, condition: jax.Array) -> jax.Array:
        seen.append((z, t))
        return jnp.zeros_like(z)

    ours = Diffusion(DiffusionConfig(LEVELS, prediction), network)  # type: ignore[arg-type]
    key, nothing = jax.random.key(0), jnp.zeros(x.shape[:2], bool)
    loss, _ = ours.loss(key, jnp.asarray(x), nothing, jnp.asarray(x))
    ((z, t),) = seen
    level = torch.from_numpy(np.round(np.asarray(t) * LEVELS).astype(int) - 1)
    share = signal_shares(LEVELS)[level.numpy()][:, None, None]
    noise = ((np.asarray(z) - np.sqrt(share) * x) / np.sqrt(1 - share)).astype(np.float32)
    scheduler = DDPMScheduler(**SETTINGS, prediction_type=TYPES[prediction])
    theirs = scheduler.add_noise(torch.from_numpy(x), torch.from_numpy(noise), level)
    np.testing.assert_allclose(z, theirs, atol=2e-4)
    target = noise if prediction == "epsilon" else scheduler.get_velocity(
        torch.from_numpy(x), torch.from_numpy(noise), level
    ).numpy()  # fmt: skip
    assert float(loss) == pytest.approx(float(np.mean(np.square(target))), rel=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 100])
@pytest.mark.parametrize("prediction", TYPES)
def test_sampling(prediction: str, steps: int) -> None:
    """Numbers of steps that divide the levels: for others diffusers does not end at the level it goes on from."""
    scheduler = DDIMScheduler(**SETTINGS, prediction_type=TYPES[prediction], timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == sampling_levels(LEVELS, steps).tolist()
    theirs = torch.from_numpy(NOISE)
    for level in scheduler.timesteps:
        output = torch.tanh(0.7 * theirs + 0.01 * (level + 1))
        theirs = scheduler.step(output, level, theirs, use_clipped_model_output=True).prev_sample

    def network(z: jax.Array, r: jax.Array, t: jax.Array, condition: jax.Array) -> jax.Array:
        return jnp.tanh(0.7 * z + t[:, None, None])

    ours = Diffusion(DiffusionConfig(LEVELS, prediction), network)  # type: ignore[arg-type]
    np.testing.assert_allclose(ours.sample(jnp.asarray(NOISE), jnp.zeros((3, 1, 1)), steps), theirs, atol=2e-4)
