"""What a suite has found: rates, differences to the control, costs, curves; as a page and as a table."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from imf_jax.evaluation.folder import METRICS, RECORDS
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.suite.folder import SuiteFolder
from imf_jax.suite.plan import make_plan
from imf_jax.suite.report import PAGE, TABLE, success_curves, write_suite_report
from imf_jax.suite.results import compare_results, read_results
from imf_jax.suite.spec import read_suite

EPISODES = 60


def record(episode: int, success: bool, seed: int = 0) -> EpisodeRecord:
    return EpisodeRecord(
        episode=episode, seed=seed, env_slot=0, status="success" if success else "timeout", steps=9, start_step=0,
        end_step=8, return_=1.0, max_reward=1.0, success_step=8 if success else None, replans=1,
    )  # fmt: skip


def evaluate(folder: Path, successes: set[int], *, episodes: int = EPISODES, interrupted: bool = False) -> None:
    """The files of an evaluation."""
    folder.mkdir(parents=True)
    records = [record(number, number in successes) for number in range(episodes)]
    (folder / RECORDS).write_text("".join(one.to_json() + "\n" for one in records))
    metrics = {"n_episodes": episodes, "interrupted": interrupted, "control_steps_per_s": 1000.0}
    (folder / METRICS).write_text(json.dumps(metrics))
    (folder / "report.html").touch()
    (folder / "timing.json").write_text(json.dumps({"inference_ms": {"mean": 2.5}}))


@pytest.fixture
def suite(tmp_path):
    """A suite of two arms with three seeds and two sampling steps, one evaluation of which has not ended."""
    path = tmp_path / "study.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "preset": "debug",
                "demonstrations": 2,
                "grid": {"objective": ["imf", "flow"], "seed": [0, 1, 2]},
                "evaluations": [{"name": "test", "episodes": EPISODES, "sampling_steps": [1, 2]}],
                "control": {"objective": "imf", "sampling_steps": 1},
            }
        )
    )
    plan = make_plan(read_suite(path), tmp_path / "out")
    for seed in range(3):
        for arm, counts in (("imf", (30, 33)), ("flow", (10, 34))):
            for steps, count in zip((1, 2), counts, strict=True):
                folder = plan.out / "evaluations" / f"{arm}_seed{seed}" / f"test_sampling_steps{steps}"
                evaluate(folder, set(range(seed, count + seed)), interrupted=(arm, seed, steps) == ("flow", 2, 2))
    folder = SuiteFolder(plan)
    folder.open()
    for seed in range(3):
        run = plan.out / "runs" / f"imf_seed{seed}"
        run.mkdir(parents=True)
        summary = {"status": "done", "steps_per_s": 10.0 + seed, "parameters": 1234, "peak_host_memory": 2 * 10**9}
        (run / "summary.json").write_text(json.dumps(summary))
        status = folder.status[f"train imf_seed{seed}"]
        status.state, status.elapsed_s = "done", 90.0
    failed = folder.status["train flow_seed0"]
    failed.state, failed.last_lines = "failed", ["error: the <disk> is full"]
    return folder


def test_results_are_of_complete_evaluations(suite):
    results = {result.case: result for result in read_results(suite.plan)}
    assert set(results) == {(arm, f"test_sampling_steps{steps}") for arm in ("imf", "flow") for steps in (1, 2)}
    assert sorted(results["flow", "test_sampling_steps2"].outcomes) == [0, 1]
    one = results["imf", "test_sampling_steps1"]
    assert one.counts == (90, 180)
    assert one.rate[0] == 50
    assert one.rate[1] < 50 < one.rate[2]
    assert one.unable_to_rank is None
    assert one.figures == {"plan_ms": 2.5, "control_steps_per_s": 1000.0}
    assert one.axes == {"objective": "imf", "evaluation": "test", "sampling_steps": 1}


def test_differences_are_paired_and_corrected(suite):
    compared = {one.result.case: one for one in compare_results(suite.plan, read_results(suite.plan))}
    assert {one.control.case for one in compared.values()} == {("imf", "test_sampling_steps1")}
    worse = compared["flow", "test_sampling_steps1"]
    assert worse.difference.mean == pytest.approx(-100 * 20 / 60)
    assert [(seed.only_arm, seed.only_control) for seed in worse.difference.by_seed] == [(0, 20)] * 3
    assert worse.conclusion == "worse than the control"
    assert worse.p_value_holm == pytest.approx(min(1, 3 * worse.difference.p_value))
    assert compared["flow", "test_sampling_steps2"].difference.mean == pytest.approx(100 * 4 / 60)


def test_few_episodes_or_one_seed_cannot_rank(suite):
    for path in (suite.path / "evaluations").glob("*_seed[12]/*/metrics.json"):
        path.unlink()
    compared = compare_results(suite.plan, read_results(suite.plan))
    assert {one.conclusion for one in compared} == {"unable to rank: one training seed"}


def test_the_page_and_the_table(suite):
    write_suite_report(suite)
    page = (suite.path / PAGE).read_text()
    for text in (
        "Suite study", "test_sampling_steps1", "90/180 = 50.0 %", "worse than the control", "hierarchical bootstrap",
        "1,234", "1:30 min", "2.00", "the &lt;disk&gt; is full", "success over sampling steps [%]", "2.50",
        'href="evaluations/imf_seed0/test_sampling_steps1/report.html"', "failed",
    ):  # fmt: skip
        assert text in page, text
    with (suite.path / TABLE).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 + 3 + 3 + 3 + 2
    first = rows[0]
    assert (first["arm_name"], first["axis_sampling_steps"], first["training_seed"]) == ("imf", "1", "all")
    assert (first["n_episodes"], first["n_success"], float(first["pc_success"])) == ("180", "90", 50.0)
    assert (first["parameters"], first["control"]) == ("1234.0", "")
    worse = next(row for row in rows if row["arm_name"] == "flow" and row["training_seed"] == "all")
    assert float(worse["difference_low"]) <= float(worse["difference"]) <= float(worse["difference_high"]) < 0
    assert worse["control"] == "imf, test_sampling_steps1"
    seed = next(row for row in rows if row["arm_name"] == "flow" and row["training_seed"] == "1")
    assert float(seed["difference"]) == pytest.approx(-100 / 3)
    assert float(seed["p"]) < 1e-4


def test_nothing_done_is_a_page_too(suite, tmp_path):
    for path in suite.path.glob("evaluations/*/*/metrics.json"):
        path.unlink()
    write_suite_report(suite)
    assert "No evaluation is complete yet" in (suite.path / PAGE).read_text()


def test_curves_are_over_axes_of_numbers(suite):
    ((title, chart, names),) = success_curves(read_results(suite.plan))
    assert title == "success over sampling steps [%]"
    assert [curve.name for curve in names] == ["imf, test", "flow, test"]
    assert chart.count("<polyline") == 2
    assert chart.count('class="curve c1"') == 1 + 2  # the curve, and a bar at each of its points
