"""The head against numbers from an independent PyTorch implementation (float64), and against known wrong variants.

More fixtures of other sizes are read from every path in `IMF_PARITY_FIXTURES` (separated by os.pathsep).
"""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from imf_jax.config import AttnResConfig, ImfConfig
from imf_jax.models.encoders.torch_names import load_torch_state, torch_slots, torch_state
from imf_jax.models.networks import layers
from imf_jax.models.networks.attnres import AttnResHead
from imf_jax.models.objectives import imf, paths

pytestmark = pytest.mark.optimized

FIXTURES = [Path(__file__).parents[1] / "fixtures/imf_attnres_small.npz"]
FIXTURES += [Path(path) for path in os.environ.get("IMF_PARITY_FIXTURES", "").split(os.pathsep) if path]

VALUE_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-4
"""Relative to the largest magnitude of each array."""


class Reference(NamedTuple):
    """One fixture file and the head that holds its weights."""

    head: AttnResHead
    arrays: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=FIXTURES, ids=lambda path: path.stem)
def reference(request: pytest.FixtureRequest) -> Reference:
    with np.load(request.param) as file:
        arrays = {name: file[name] for name in file.files}
    n_emb, n_layer, n_head, n_kv_head, _, _, cond_dim, action_dim, _ = (int(v) for v in arrays["config"])
    config = AttnResConfig(
        n_emb=n_emb, n_layer=n_layer, n_head=n_head, n_kv_head=n_kv_head,
    )  # fmt: skip
    head = AttnResHead(config, action_dim, cond_dim, rngs=nnx.Rngs(0))
    weights = {name.removeprefix("param/"): array for name, array in arrays.items() if name.startswith("param/")}
    report = load_torch_state(head, weights)
    assert report.complete, report
    return Reference(head, arrays)


def deviation(got: jax.Array | np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(np.asarray(got, np.float64) - want).max() / max(np.abs(want).max(), 1e-30))


def terms(reference: Reference, r: np.ndarray | None = None, t: np.ndarray | None = None) -> imf.CompoundVelocity:
    arrays = reference.arrays
    r, t = arrays["r"] if r is None else r, arrays["t"] if t is None else t
    graph, weights = nnx.split(reference.head)

    @jax.jit
    def compute(weights, z, r, t, condition):
        return imf.compound_velocity(nnx.merge(graph, weights), z, r, t, condition)

    return compute(weights, *(jnp.asarray(value, jnp.float32) for value in (arrays["z"], r, t, arrays["cond"])))


def loss(weights: nnx.State, graph: nnx.GraphDef, arrays: dict[str, np.ndarray], kind: str) -> jax.Array:
    z, r, t, condition, x, e = (jnp.asarray(arrays[name]) for name in ("z", "r", "t", "cond", "x", "e"))
    compound = imf.compound_velocity(nnx.merge(graph, weights), z, r, t, condition).compound
    config = ImfConfig(loss=kind)
    return imf.regression_loss(compound - (e - x), jnp.zeros(x.shape[:2], bool), config)


def test_interpolation(reference: Reference) -> None:
    arrays = reference.arrays
    z = paths.interpolate(*(jnp.asarray(arrays[name]) for name in ("x", "e", "t")))
    assert deviation(z, arrays["z"]) < VALUE_TOLERANCE


def test_velocities_and_derivative(reference: Reference) -> None:
    got = terms(reference)
    pairs = {"v": got.instantaneous, "u": got.average, "dudt": got.derivative, "V": got.compound}
    for name, value in pairs.items():
        assert deviation(value, reference.arrays[name]) < VALUE_TOLERANCE, name


@pytest.mark.parametrize("kind", ["mse", "pseudo_huber"])
def test_losses(reference: Reference, kind: str) -> None:
    graph, weights = nnx.split(reference.head)
    value = jax.jit(lambda weights: loss(weights, graph, reference.arrays, kind))(weights)
    assert deviation(value, reference.arrays[f"loss_{kind}"]) < VALUE_TOLERANCE


def test_gradients(reference: Reference) -> None:
    graph, weights = nnx.split(reference.head)
    gradient = jax.jit(jax.grad(lambda w: loss(w, graph, reference.arrays, "pseudo_huber")))(weights)
    as_torch = torch_state(nnx.merge(graph, gradient))
    wanted = [name for name in reference.arrays if name.startswith("grad_pseudo_huber/")]
    assert wanted
    for name in wanted:
        got = as_torch[name.removeprefix("grad_pseudo_huber/")]
        assert deviation(got, reference.arrays[name]) < GRADIENT_TOLERANCE, name


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_samples(reference: Reference, steps: int) -> None:
    arrays = reference.arrays
    sample = nnx.jit(paths.sample, static_argnums=3)
    got = sample(reference.head, jnp.asarray(arrays["e"]), jnp.asarray(arrays["cond"]), steps)
    assert deviation(got, arrays[f"actions_{steps}step"]) < VALUE_TOLERANCE


def half_split(x: jax.Array, cos: np.ndarray, sin: np.ndarray) -> jax.Array:
    """Rotary positions that pair channel i with channel i + half, as some codebases do."""
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


@pytest.mark.parametrize("wrong", ["half-split RoPE", "flipped time", "negative tangent", "tangent in r", "no tangent"])
def test_the_tolerance_catches_known_wrong_variants(
    reference: Reference, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = reference.arrays
    got = terms(reference)
    interval = (arrays["t"] - arrays["r"])[:, None, None]
    if wrong == "half-split RoPE":
        monkeypatch.setattr(layers, "rotate_pairs", half_split)
        value, want = terms(reference).average, arrays["u"]
    elif wrong == "flipped time":
        value, want = terms(reference, 1 - arrays["r"], 1 - arrays["t"]).average, arrays["u"]
    elif wrong == "negative tangent":
        value, want = got.average - interval * got.derivative, arrays["V"]
    elif wrong == "tangent in r":
        velocity = lambda z, r, t: reference.head(z, r, t, jnp.asarray(arrays["cond"]))  # noqa: E731
        inputs = tuple(jnp.asarray(arrays[name]) for name in ("z", "r", "t"))
        tangents = (got.instantaneous, jnp.ones_like(inputs[1]), jnp.zeros_like(inputs[2]))
        value, want = jax.jit(lambda i, d: jax.jvp(velocity, i, d)[1])(inputs, tangents), arrays["dudt"]
    else:
        value, want = got.average, arrays["V"]
    assert deviation(value, want) > 5 * VALUE_TOLERANCE


def test_torch_names_round_trip(reference: Reference) -> None:
    state = torch_state(reference.head)
    assert set(state) == set(torch_slots(reference.head))
    for name, value in state.items():
        np.testing.assert_array_equal(value, reference.arrays[f"param/{name}"])


def test_a_state_that_does_not_fit_is_reported_and_not_loaded(reference: Reference) -> None:
    state = torch_state(reference.head)
    name, other = list(state)[:2]
    wrong = {**state, name: state[name][..., :-1], "extra": np.zeros(3)}
    del wrong[other]
    fresh = AttnResHead(
        reference.head.config, reference.head.action_dim, reference.head.condition_dim, rngs=nnx.Rngs(1)
    )
    before = torch_state(fresh)
    report = load_torch_state(fresh, wrong)
    assert report.missing == [other]
    assert report.unexpected == ["extra"]
    assert len(report.mismatched) == 1
    assert name in report.mismatched[0]
    for key, value in torch_state(fresh).items():
        np.testing.assert_array_equal(value, before[key])
