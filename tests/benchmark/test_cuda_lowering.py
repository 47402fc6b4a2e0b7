"""Every program that runs on a device, lowered for CUDA: that takes no GPU and no part of CUDA."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from imf_jax.benchmark.cuda import programs
from imf_jax.benchmark.cuda.programs import Program, preset_config, without_pictures
from imf_jax.config import (
    DiffusionConfig,
    FlowConfig,
    MeanFlowConfig,
    PolicyConfig,
    PretrainConfig,
    RegressionConfig,
    TransformerConfig,
    UnetConfig,
    kind_name,
)
from imf_jax.presets import PRETRAIN_DIRECTORY, load_preset
from imf_jax.sim.backends.warp import WarpBackend

SCENES = 64

STATE, ROW, GRID = preset_config("transfer-state"), preset_config("lewm-384", "row"), preset_config("lewm-384", "grid")

SMALL = {"n_emb": 32, "n_layer": 2, "n_head": 2, "n_kv_head": 2}
OTHERS = {
    kind_name(objective): replace(STATE, policy=PolicyConfig(head, objective, sampling_steps=steps))
    for head, objective, steps in [
        (TransformerConfig(**SMALL), FlowConfig(), 5),
        (UnetConfig((16, 32), groups=4, time_dim=16), DiffusionConfig(), 10),
        (TransformerConfig(**SMALL), MeanFlowConfig(), 1),
        (UnetConfig((16, 32), groups=4, time_dim=16), RegressionConfig(), 1),
    ]
}
"""Other networks and objectives than those of the presets, in sizes that are lowered quickly."""

EYE = load_preset("lewm-pretrain", PRETRAIN_DIRECTORY, PretrainConfig)

PHYSICS, PICTURES = {"step", "kinematics"}, {"refit_bvh", "render"}
"""The functions of MJX behind Warp's calls."""

LARGEST_TEXT = 1_000_000
"""Unrolled layers make a program large, and its compilation slow [characters, without the values of constants]."""

MANY_ARRAYS = 1_500_000
"""The same where hundreds of arrays go in and out: MJX's data, or weights with their moments and averages."""

LARGEST_CONSTANTS = 10_000
"""Arrays on a device that a program has closed over are copied into its code, and made anew in its loops [bytes]. Those
of numpy, like the meshes that MJX keeps beside its model, are only copied."""

backend = cache(lambda: WarpBackend("transfer"))


@cache
def loop(policy: str) -> tuple[Program, Program]:
    """Begin and advance of the loop of a policy."""
    return programs.loop({"state": STATE, "lewm": GRID}[policy], backend(), SCENES, jax.local_devices()[0])


def calls(program: Program, largest: int) -> tuple[set[str], Counter[str]]:
    """Targets of custom calls that are not Warp's, and how often each function of MJX is called.

    The program must not be too large, nor hold arrays that should be arguments.
    """
    traced = program.trace()
    assert sum(array.nbytes for array in closed_over(traced.jaxpr).values()) < LARGEST_CONSTANTS, program.name
    text = traced.lower(lowering_platforms=("cuda",)).compiler_ir().operation.get_asm(large_elements_limit=16)
    assert len(text) < largest, f"{program.name}: {len(text) / 1e6:.2f} MB of text"
    found, warp = re.findall(r"stablehlo\.custom_call @([\w.$]+)", text), programs.warp_calls()
    return {name for name in found if name not in warp}, Counter(warp[name] for name in found if name in warp)


def closed_over(jaxpr: Any) -> dict[int, jax.Array]:
    """Arrays on a device that a traced program and the programs in it have closed over, by identity."""
    if isinstance(jaxpr, ClosedJaxpr):
        found = {id(value): value for value in jaxpr.consts if isinstance(value, jax.Array)}
        return found | closed_over(jaxpr.jaxpr)
    found = {}
    for equation in jaxpr.eqns:
        literals = [variable.val for variable in equation.invars if isinstance(variable, Literal)]
        found |= {id(value): value for value in literals if isinstance(value, jax.Array)}
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else [parameter]:
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    found |= closed_over(inner)
    return found


@pytest.mark.parametrize("policy", ["state", "lewm"])
def test_the_loop_calls_warp_and_nothing_else(policy: str) -> None:
    for program in loop(policy):
        others, warp = calls(program, MANY_ARRAYS)
        # Above all no callback of Python: it would stop the device, every time.
        assert others == set(), program.name
        assert set(warp) == PHYSICS | (PICTURES if policy == "lewm" else set()), program.name
        assert warp["step"] == 1, program.name


@pytest.mark.parametrize(
    ("make", "largest"),
    [
        pytest.param(lambda: programs.plan(STATE, SCENES), LARGEST_TEXT, id="plan-128/4"),
        pytest.param(lambda: programs.plan(without_pictures(GRID), SCENES), LARGEST_TEXT, id="plan-384/12"),
        pytest.param(lambda: programs.encode("row", SCENES), LARGEST_TEXT, id="encoder-row"),
        pytest.param(lambda: programs.encode("grid", SCENES), LARGEST_TEXT, id="encoder-grid"),
        pytest.param(lambda: programs.training(STATE), LARGEST_TEXT, id="training-128/4"),
        pytest.param(lambda: programs.training(ROW), MANY_ARRAYS, id="training-384/12"),
        *(
            pytest.param(partial(make, config, *more), LARGEST_TEXT, id=f"{make.__name__}-{name}")
            for name, config in OTHERS.items()
            for make, *more in ((programs.plan, SCENES), (programs.training,))
        ),
        pytest.param(lambda: programs.pretraining(EYE), LARGEST_TEXT, id="pre-training-192/12"),
    ],
)
def test_models_call_nothing_outside_of_xla(make: Callable[[], Program], largest: int) -> None:
    assert calls(make(), largest) == (set(), Counter())
