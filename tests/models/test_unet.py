"""The U-Net: its layers against convolutions of XLA, and what a network of chunks owes the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parameters import count_parameters
from transfer_task import SPACES

from imf_jax.config import PolicyConfig, UnetConfig
from imf_jax.errors import ArgumentError
from imf_jax.models.networks.unet import Convolution, Doubling, Unet
from imf_jax.models.policy import Policy

SMALL = UnetConfig(widths=(8, 16), kernel_size=3, groups=4, time_dim=8)
X = jax.random.normal(jax.random.key(0), (3, 6, 4))


@pytest.mark.parametrize(("size", "stride"), [(5, 1), (3, 2), (1, 1)])
def test_windows_make_a_convolution(size: int, stride: int) -> None:
    ours = Convolution(4, 7, size, stride=stride, rngs=nnx.Rngs(0))
    kernel = ours.linear.kernel[...].reshape(size, 4, 7)
    expected = jax.lax.conv_general_dilated(
        X, kernel, (stride,), [(size // 2, size // 2)], dimension_numbers=("NWC", "WIO", "NWC")
    )
    np.testing.assert_allclose(ours(X), expected + ours.linear.bias[...], atol=1e-5)


def test_doubling_is_a_transposed_convolution() -> None:
    """Of size 4 and stride 2 with padding 1: output 2 i + k - 1 receives input i times tap k."""
    ours = Doubling(4, rngs=nnx.Rngs(0))
    even, odd = (linear.kernel[...].reshape(2, 4, 4) for linear in (ours.even, ours.odd))
    taps = jnp.stack([odd[1], even[1], odd[0], even[0]])
    expected = np.zeros((3, 6 * 2 + 2, 4), np.float32)
    for i in range(6):
        for k in range(4):
            expected[:, 2 * i + k] += np.asarray(X[:, i] @ taps[k])
    np.testing.assert_allclose(ours(X), expected[:, 1:-1], atol=1e-5)


def test_the_number_of_weights() -> None:
    """Layer by layer: a conditioned block has two convolutions with norms, a modulation and maybe a residual."""
    widths, condition = (256, 512, 1024), 128 + 40

    def block(into: int, out: int) -> int:
        convolutions = 5 * into * out + 5 * out * out + 2 * 3 * out
        return convolutions + (condition + 1) * 2 * out + ((into + 1) * out if into != out else 0)

    pairs = [(2, 256), (256, 512), (512, 1024), (1024, 1024), (2048, 512), (1024, 256)]
    expected = sum(block(into, out) + block(out, out) for into, out in pairs)
    expected += sum(3 * w * w + w for w in widths[:-1]) + sum(4 * w * w + 2 * w for w in (512, 256))
    expected += 257 * 512 + 513 * 128  # times
    expected += 5 * 256 * 256 + 3 * 256 + 257 * 2
    unet = nnx.eval_shape(lambda: Unet(UnetConfig(), 2, 20, 2, rngs=nnx.Rngs(0)))
    assert count_parameters(unet) == expected


def make(marks_prefix: bool = False) -> Unet:
    return Unet(SMALL, 3, 5, 2, rngs=nnx.Rngs(0), marks_prefix=marks_prefix)


def inputs() -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(1), 4)
    r, t = jnp.sort(jax.random.uniform(keys[1], (2, 4)), axis=0)
    return jax.random.normal(keys[0], (4, 8, 3)), r, t, jax.random.normal(keys[2], (4, 2, 5))


def test_rows_do_not_influence_one_another_and_all_inputs_matter() -> None:
    run = nnx.jit(lambda unet, *inputs: unet(*inputs))
    unet, (z, r, t, condition) = make(), inputs()
    whole = run(unet, z, r, t, condition)
    assert whole.shape == z.shape
    other = run(unet, z.at[1:].set(7.0), r.at[1:].set(0.1), t.at[1:].set(0.2), condition.at[1:].set(-3.0))
    np.testing.assert_allclose(whole[0], other[0], atol=1e-6)
    for changed in ((z + 1, r, t, condition), (z, r + 1, t, condition), (z, r, t + 1, condition)):
        assert np.abs(run(unet, *changed) - whole).max() > 1e-4
    for token in range(2):
        assert np.abs(run(unet, z, r, t, condition.at[:, token].add(1.0)) - whole).max() > 1e-4


def test_gradients_reach_every_weight_through_the_derivative_along_a_path() -> None:
    z, r, t, condition = inputs()

    @nnx.jit
    def gradients(unet: Unet) -> nnx.State:
        def loss(unet: Unet) -> jax.Array:
            value, derivative = jax.jvp(lambda z, t: unet(z, r, t, condition), (z, t), (jnp.cos(z), jnp.ones(4)))
            return jnp.sum(jnp.square(value)) + jnp.sum(jnp.square(derivative))

        return nnx.grad(loss)(unet)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(make())):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_given_steps_are_marked() -> None:
    unet, arguments = make(marks_prefix=True), inputs()
    none, first = jnp.zeros((4, 8), bool), jnp.zeros((4, 8), bool).at[:, :3].set(True)
    np.testing.assert_array_equal(unet(*arguments), unet(*arguments, none))
    assert np.abs(unet(*arguments, first) - unet(*arguments)).max() > 1e-4


def test_a_policy_has_it_and_chunks_must_fit() -> None:
    policy = Policy(PolicyConfig(SMALL, pred_horizon=8, num_action_steps=4), SPACES, 7, rngs=nnx.Rngs(0))
    assert isinstance(policy.head, Unet)
    with pytest.raises(ArgumentError, match=r"policy\.pred_horizon 6 must be a multiple of 4 for this policy\.head"):
        PolicyConfig(UnetConfig(), pred_horizon=6, num_action_steps=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": ()}, "head.widths is empty"),
        ({"widths": (12,)}, r"head.widths \[12\] must be positive multiples of head.groups 8"),
        ({"kernel_size": 4}, "head.kernel_size 4 must be odd"),
        ({"time_dim": 7}, "head.time_dim 7 must be even"),
    ],
)
def test_sizes_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        UnetConfig(**settings)
