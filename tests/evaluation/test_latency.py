"""Sweeps of the delay: figures, table and plot; scripts/latency.py and the flags of scripts/eval.py on a checkpoint."""

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imf_jax.config import AttnResConfig, LatencyConfig, PolicyConfig
from imf_jax.errors import ArgumentError
from imf_jax.evaluation.folder import read_records
from imf_jax.evaluation.latency import sweep_delays, sweep_plot, sweep_rows, sweep_table
from imf_jax.files import read_json
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.terminal import make_console

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SIZES = PolicyConfig(AttnResConfig(n_emb=16, n_layer=1, n_head=2, n_kv_head=1), pred_horizon=8, num_action_steps=4)


def records(successes: list[bool]) -> list[EpisodeRecord]:
    return [
        EpisodeRecord(e, 0, 0, "success" if done else "timeout", 10, 0, 9, 1.0, 1.0, 9 if done else None, 2)
        for e, done in enumerate(successes)
    ]


def test_rows_compare_each_delay_with_the_smallest_on_the_same_scenes() -> None:
    worse = [False] * 8 + [True] * 2
    rows = sweep_rows({3: records(worse), 0: records([True] * 8 + [False, True]), 6: records([])}, control_hz=50)
    assert [(row["delay_steps"], row["delay_ms"], row["n_success"]) for row in rows] == [
        (0, 0, 9),
        (3, 60, 2),
        (6, 120, 0),
    ]
    assert (rows[0]["n_lost"], rows[0]["p_value_holm"]) == (None, None)
    assert (rows[1]["n_lost"], rows[1]["n_won"]) == (8, 1)
    assert rows[1]["p_value"] == pytest.approx(2 * (1 + 9) / 2**9)
    assert rows[1]["p_value_holm"] == pytest.approx(2 * rows[1]["p_value"])
    assert rows[1]["pc_success_ci95"] == pytest.approx([5.7, 51.0], abs=0.1)
    screen = io.StringIO()
    make_console(screen).print(sweep_table(rows))
    text = screen.getvalue()
    assert "[ms]" in text
    assert "8 / 1" in text
    assert "5.7-51.0" in text
    picture = Image.open(io.BytesIO(sweep_plot(rows, "tiny, transfer")))
    assert picture.size == (1050, 675)
    assert np.asarray(picture.convert("L")).std() > 5


@pytest.mark.parametrize(
    ("options", "trained", "expected"),
    [
        ({}, 0, [0, 1, 2, 3, 4, 5, 6]),
        ({"delays": (4, 0)}, 0, [0, 4]),
        ({"prefix": True}, 3, [0, 1, 2, 3]),
        ({"prefix": True, "replan_every": 2}, 3, [0, 1, 2]),
    ],
)
def test_delays_are_those_a_policy_can_be_executed_with(options: dict, trained: int, expected: list[int]) -> None:
    policy = replace(SIZES, prefix_training=trained)
    assert sweep_delays(LatencyConfig(Path("run"), **options), policy) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delays": (0, 7)}, r"--delay-steps 7 is beyond the chunk; this policy allows 0\.\.6"),
        ({"delays": (-1,)}, "--delays -1 must not be negative"),
        ({"delays": (1, 1)}, "--delays 1 1 names a delay twice"),
        ({"replan_every": 8}, "--replan-every 8 is more actions than a chunk has"),
        ({"replan_every": 0}, "--replan-every 0 must be at least 1"),
        ({"blend_steps": 3}, "--blend-steps 3 is longer than two chunks overlap: 2 actions"),
        ({"prefix": True}, "--prefix needs a policy trained for it"),
        ({"action_interpolation": 0}, "--action-interpolation 0 must be at least 1"),
        ({"episodes": 0}, "--episodes is 0"),
    ],
)
def test_sweeps_that_cannot_run_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        sweep_delays(LatencyConfig(Path("run"), **options), SIZES)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]) -> Path:
    """A training run with a checkpoint of a tiny policy."""
    sizes = replace(SIZES, prefix_training=2)
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", sizes=sizes)


def test_an_interpolation_that_does_not_divide_leaves_nothing(script: Callable[..., Any], run_folder: Path) -> None:
    run = script("latency.py", "--checkpoint", run_folder, "--action-interpolation", 3, "--out", "sweep", "--no-plot")
    assert run.code == 2
    assert "--action-interpolation 3 does not divide the 5 physics steps of a control step; choose 1 or 5" in run.err
    assert not Path("sweep").exists()


def test_a_sweep_from_a_checkpoint_to_table_json_and_plot(script: Callable[..., Any], run_folder: Path) -> None:
    run = script(
        "latency.py", "--checkpoint", run_folder, "--delays", 0, 2, "--episodes", 3, "--out", "sweep", "--prefix"
    )
    assert run.code == 0, run.err
    assert "results in sweep: latency.json, latency.png, delay_*/" in run.out
    content = read_json(Path("sweep/latency.json"))
    assert [(row["delay_steps"], row["n_episodes"]) for row in content["delays"]] == [(0, 3), (2, 3)]
    assert Path("sweep/latency.png").read_bytes().startswith(b"\x89PNG")

    # Without delay a sweep repeats a plain evaluation; with one it is what eval.py says about the same flags.
    latency = ("--inference", "async", "--delay-steps", 2, "--prefix")
    for flags, folder in (((), "delay_00"), (latency, "delay_02")):
        again = script("eval.py", "--checkpoint", run_folder, "--episodes", 3, "--out", f"again_{folder}", *flags)
        assert again.code == 0, again.err
        swept, alone = (read_records(Path(path))[0] for path in (f"sweep/{folder}", f"again_{folder}"))
        assert [r.return_ for r in swept] == [r.return_ for r in alone]
        assert [r.replans for r in swept] == [5, 5, 5]
    assert read_json(Path("again_delay_02/manifest.json"))["config"]["execution"]["delay_steps"] == 2

    # Cut off within the second delay, and continued with one more.
    cut = Path("sweep/delay_02/episodes.jsonl")
    whole = cut.read_bytes().splitlines(keepends=True)
    cut.write_bytes(whole[0])
    for name in ("sweep/latency.json", "sweep/delay_02/metrics.json"):
        Path(name).unlink()
    command = ["latency.py", "--checkpoint", run_folder, "--episodes", 3, "--prefix", "--resume", "--no-plot"]
    run = script(*command, "--delays", 0, 1, 2, "--out", "sweep")
    assert run.code == 0, run.err
    assert "1 of 3 episodes are there already" in run.out
    rows = read_json(Path("sweep/latency.json"))["delays"]
    assert [(row["delay_steps"], row["n_episodes"]) for row in rows] == [(0, 3), (1, 3), (2, 3)]
    assert [(r.episode, r.return_) for r in read_records(Path("sweep/delay_02"))[0]] == [
        (r.episode, r.return_) for r in read_records(Path("again_delay_02"))[0]
    ]

    Path("mine").mkdir()
    Path("mine/thesis.tex").touch()
    run = script(*command, "--out", "mine")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "mine holds no evaluation that could be resumed" in run.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval.py", "--inference", "async", "--delay-steps", 7], "--delay-steps 7 is beyond the chunk"),
        (["eval.py", "--delay-steps", 2], "--delay-steps 2 would do nothing with --inference sync"),
        (["eval.py", "--replan-every", 0], "--replan-every 0 must be at least 1"),
        (["eval.py", "--action-interpolation", 2], "--action-interpolation 2 does not divide"),
        (["eval.py", "--inference", "async", "--delay-steps", 3, "--prefix"], "trained for delays up to"),
        (["latency.py", "--resume"], "--resume needs the --out folder of the sweep"),
        (["latency.py", "--delays", 9], "--delay-steps 9 is beyond the chunk"),
        (["latency.py", "--blend-steps", 3], "--blend-steps 3 is longer than two chunks overlap"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    script: Callable[..., Any], run_folder: Path, tmp_path: Path, arguments: list, message: str
) -> None:
    name, *flags = arguments
    run = script(name, "--checkpoint", run_folder, *flags)
    assert run.code == 2
    assert message in run.err
    assert run.err.count("\n") == 1
    assert not (tmp_path / "evals").exists()


def test_an_expert_cannot_come_late(script: Callable[..., Any]) -> None:
    run = script("eval.py", "--expert", "--inference", "async", "--delay-steps", 1)
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "--inference async needs a --checkpoint" in run.err


def test_a_plot_without_matplotlib_is_refused_in_one_line(
    script: Callable[..., Any], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = script("latency.py", "--checkpoint", run_folder)
    assert (run.code, run.err.count("\n")) == (1, 1)
    assert "pip install 'imf_jax[plots]', or leave the plot out with --no-plot" in run.err
    assert not Path("evals").exists()
