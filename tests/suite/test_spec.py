"""Files of suites: what is asked becomes runs of existing commands, and what cannot work is named before any runs."""

from typing import Any

import pytest
import yaml

from imf_jax.commands import train
from imf_jax.config import EvalConfig, FlowConfig, UnetConfig
from imf_jax.errors import ArgumentError, UserError
from imf_jax.evaluation.jobs import read_jobs
from imf_jax.suite.plan import Plan, make_plan
from imf_jax.suite.settings import as_flag, build_config
from imf_jax.suite.spec import read_suite

SMALL: dict[str, Any] = {
    "preset": "debug",
    "demonstrations": 4,
    "grid": {"objective": ["imf", "flow", "regression"], "seed": [0, 1]},
    "evaluations": [
        {"name": "steps", "episodes": 6, "sampling_steps": [1, 2], "only": {"objective": ["imf", "flow"]}},
        {"name": "late", "episodes": 6, "inference": "async", "delay_steps": [0, 4]},
    ],
    "control": {"objective": "imf"},
}


@pytest.fixture
def plan_of(tmp_path):
    """The plan of a suite; given keys replace those of a small one, None removes them."""

    def plan(**keys) -> Plan:
        content = {key: value for key, value in {**SMALL, **keys}.items() if value is not None}
        path = tmp_path / "suite.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return make_plan(read_suite(path), tmp_path / "out")

    return plan


def test_a_grid_becomes_runs_with_shared_demonstrations(plan_of, tmp_path):
    plan = plan_of()
    names = [run.name for run in plan.runs]
    assert names[:5] == [
        "collect transfer-4", "train imf_seed0", "evaluate imf_seed0", "train flow_seed0", "evaluate flow_seed0",
    ]  # fmt: skip
    assert len(names) == 1 + 2 * 2 * 3
    needs = {run.name: run.needs for run in plan.runs}
    assert needs["train flow_seed1"] == ("collect transfer-4",)
    assert needs["evaluate flow_seed1"] == ("train flow_seed1",)
    evaluated = {run.name: [job["name"] for job in run.jobs] for run in plan.runs if run.kind == "evaluation"}
    assert evaluated["evaluate flow_seed0"] == [
        "steps_sampling_steps1", "steps_sampling_steps2", "late_delay_steps0", "late_delay_steps4",
    ]  # fmt: skip
    assert evaluated["evaluate regression_seed0"] == ["late_delay_steps0", "late_delay_steps4"]
    assert [run.total for run in plan.runs][:3] == [4, 20, 24]


def test_runs_are_what_a_user_could_type(plan_of, tmp_path):
    plan = plan_of(train={"n_emb": 64, "learning_rate": 1e-3, "max_steps": 30})
    run = next(run for run in plan.runs if run.name == "train flow_seed1")
    config = train.parse(run.flags)
    assert isinstance(config.policy.objective, FlowConfig)
    assert (config.policy.head.n_emb, config.optimizer.learning_rate, config.max_steps) == (64, 1e-3, 30)
    assert (config.seed, config.out) == (1, tmp_path / "out" / "runs" / "flow_seed1")
    assert config.data == tmp_path / "out" / "demonstrations" / "transfer-4"
    collect = plan.runs[0]
    assert collect.command[2:4] == ["-m", "imf_jax.commands.collect"]
    assert collect.flags == ("--task", "transfer", "--episodes", "4", "--out", str(collect.folder))


@pytest.mark.parametrize(
    "settings",
    [
        {"head": "unet", "widths": [32, 64], "objective": "diffusion", "clip": None, "normalization": "mean_std"},
        {"encoder": "resnet", "shared": True, "cameras": ["top", "front"], "token_per_camera": False},
        {"prefix_training": 4, "policy.sampling_steps": 2, "validation.num_episodes": 0, "decay_steps": None},
        {"head": "transformer", "policy.head.causal": True, "relative_poses": 0.05, "batch_size": 16},
    ],
)
def test_settings_and_their_flags_build_the_same(settings):
    built = build_config("debug", [settings], "arm")
    assert train.parse(built.flags) == built.config


def test_later_layers_and_long_names_win():
    built = build_config(
        "debug", [{"n_emb": 64, "head": "transformer"}, {"policy.head.n_emb": 96, "head": "unet"}][:1], "arm"
    )
    assert built.config.policy.head.n_emb == 64
    built = build_config("debug", [{"n_emb": 64}, {"policy.head.n_emb": 96}], "arm")
    assert (built.config.policy.head.n_emb, built.flags.count("--policy.head.n-emb")) == (96, 1)
    assert as_flag("policy.encoder.shared", False) == ["--policy.encoder.no-shared"]


def test_arms_are_an_axis_and_axes_may_be_groups(plan_of):
    plan = plan_of(
        arms=[{"name": "wide", "n_emb": 64}, {"name": "unet", "head": "unet", "widths": [32, 64]}],
        grid={"size": [{"name": "few", "demonstrations": 2}, {"name": "many", "demonstrations": 3}], "seed": [3]},
        evaluations=[{"episodes": 5}],
        control="wide",
    )
    assert [arm.name for arm in plan.arms] == ["wide_few", "wide_many", "unet_few", "unet_many"]
    assert isinstance(plan.arms[2].config.policy.head, UnetConfig)
    assert [run.name for run in plan.runs[:2]] == ["collect transfer-2", "collect transfer-3"]
    assert plan.seeds == (3,)
    assert plan.comparisons.control_of == {
        ("unet_few", "test"): ("wide_few", "test"), ("unet_many", "test"): ("wide_many", "test"),
    }  # fmt: skip


def test_numbers_of_an_axis_are_told_apart_by_it(plan_of):
    plan = plan_of(
        grid={"n_emb": [32, 64], "demonstrations": [2, 3], "objective": ["imf"]},
        evaluations=[{"episodes": 5}], control=None,
    )  # fmt: skip
    assert plan.arms[0].name == "n_emb32_demonstrations2_imf"
    assert len(plan.runs) == 2 + 2 * 4


def test_a_control_can_be_one_evaluation_of_one_arm(plan_of):
    control_of = plan_of(
        evaluations=[SMALL["evaluations"][0], {"name": "once", "episodes": 6, "only": {"objective": "regression"}}],
        control={"objective": "imf", "evaluation": "steps", "sampling_steps": 1},
    ).comparisons.control_of
    assert set(control_of.values()) == {("imf", "steps_sampling_steps1")}
    assert set(control_of) == {
        ("imf", "steps_sampling_steps2"), ("flow", "steps_sampling_steps1"), ("flow", "steps_sampling_steps2"),
        ("regression", "once"),
    }  # fmt: skip


def test_levels_of_a_perturbation_are_an_axis(plan_of):
    plan = plan_of(
        evaluations=[{"episodes": 5, "perturb": {"push": [0, 0.5], "action-noise": 1.0}}],
        control={"push": 0},
    )
    assert [variant.varied for variant in plan.variants] == [{"push": 0}, {"push": 0.5}]
    assert plan.variants[1].job["overrides"] == {"perturb": {"push": 0.5, "action-noise": 1.0}}
    assert plan.comparisons.control_of[("flow", plan.variants[1].name)] == ("flow", plan.variants[0].name)


def test_policies_that_see_share_pictures_and_features(plan_of):
    plan = plan_of(
        preset="lewm-small",
        grid={"n_emb": [64, 128], "seed": [0, 1]},
        evaluations=[{"episodes": 5}],
        control=None,
    )
    kinds = [run.kind for run in plan.runs]
    assert kinds[:2] == ["demonstrations", "features"]
    assert kinds.count("features") == 1
    assert plan.runs[0].flags[4:] == (
        "--cameras", "r_vis", "top", "front", "--image-size", "128", "--out", str(plan.runs[0].folder),
    )  # fmt: skip
    assert plan.runs[1].needs == (plan.runs[0].name,)
    assert plan.runs[2].needs == (plan.runs[0].name, plan.runs[1].name)
    assert train.parse(plan.runs[1].flags).data == plan.runs[0].folder


def test_jobs_are_read_by_eval(plan_of, tmp_path, monkeypatch):
    """Its checkpoints do not exist yet; apart from them its file of jobs is one."""
    import json

    monkeypatch.setattr("imf_jax.evaluation.jobs._require_checkpoint", lambda config, where: None)
    plan = plan_of(evaluations=[{"name": "a", "episodes": 3, "seeds": [0, 5], "captures": {"save_timing": True}}])
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps({"jobs": list(plan.runs[2].jobs)}))
    jobs = read_jobs(path, EvalConfig(jobs=path))
    assert [job.name for job in jobs] == ["a_seed0", "a_seed5"]
    assert plan.variants[0].folders == ("a_seed0", "a_seed5")
    assert jobs[1].config.capture.save_timing
    assert jobs[1].config.checkpoint == tmp_path / "out" / "runs" / "imf_seed0"


WRONG = [
    ({"grud": {}}, "'grud' is not known; did you mean grid?"),
    ({"grid": {"objectve": ["imf"]}}, "'objectve' is no setting; did you mean objective?"),
    ({"grid": {"objective": ["imf", "flwo"]}}, "arm flwo: --policy.objective flwo is not known; did you mean flow?"),
    ({"grid": {"objective": "imf"}}, "objective must be a list"),
    ({"grid": {"objective": ["imf", "imf"]}}, "imf is there twice"),
    ({"grid": {"seed": [0, 0]}}, "a seed is given twice"),
    ({"grid": {"seed": [-1]}, "evaluations": [{"episodes": 3}]}, "seed -1 must be in"),
    ({"grid": None, "control": None}, "varies nothing"),
    ({"grid": {"n_emb": [63]}}, "arm n_emb63: head.n_emb 63 must be a multiple"),
    ({"grid": {"n_emb": ["wide"]}}, "field policy.head.n_emb is 'wide'; it must be a whole number"),
    ({"train": {"max_stepz": 3}}, "'max_stepz' is no setting; did you mean max_steps?"),
    ({"train": {"seed": 3}}, "'seed' is given by the suite itself; give seeds under grid"),
    ({"train": {"out": "x"}}, "'out' is given by the suite itself"),
    ({"preset": None}, "has no preset"),
    ({"preset": "debgu"}, "unknown preset 'debgu'"),
    ({"task": "tranfser"}, "tranfser"),
    ({"demonstrations": {"epsodes": 3}}, "'epsodes' is not known; did you mean episodes?"),
    ({"demonstrations": 0}, "--episodes is 0"),
    ({"arms": [{"n_emb": 64}]}, "needs a name"),
    ({"arms": [{"name": "a"}, {"name": "A"}]}, "a is there twice"),
    ({"arms": [{"name": "a"}], "evaluations": [{"only": {"arm": "c"}}]}, "'c' is not known"),
    ({"evaluations": []}, "evaluations must be a list"),
    ({"evaluations": [{"sampling_step": 2}]}, "'sampling_step' is not known; did you mean sampling_steps?"),
    ({"evaluations": [{"sampling_steps": [1, 2]}]}, "--sampling-steps 2 is more than objective regression has"),
    ({"evaluations": [{"delay_steps": 4}]}, "add --inference async"),
    ({"evaluations": [{"inference": "async", "delay_steps": 40}]}, "--delay-steps 40 is beyond the chunk"),
    ({"evaluations": [{"episodes": 0}]}, "--episodes is 0"),
    ({"evaluations": [{"perturb": {"psh": 1}}]}, "--perturb psh: there is no such perturbation"),
    ({"evaluations": [{"perturb": {"lighting": [1]}}]}, "--perturb lighting would do nothing: this policy sees no"),
    ({"evaluations": [{"name": "a"}, {"name": "a"}]}, "two evaluations are called a"),
    ({"evaluations": [{"checkpoint": "x"}]}, "'checkpoint' is not known"),
    ({"evaluations": [{"only": {"objectiv": "imf"}}]}, "'objectiv' is not known; did you mean objective?"),
    ({"evaluations": [{"only": {"objective": "imff"}}]}, "'imff' is not known; did you mean imf?"),
    ({"evaluations": [{"only": {"objective": "imf"}}]}, "arm flow has no evaluation"),
    ({"control": {"objective": "imff"}}, "'imff' is not known; did you mean imf?"),
    ({"control": {"objetive": "imf"}}, "'objetive' is no axis of this suite; did you mean objective?"),
    ({"control": {"delay_steps": 5}}, "5 is not evaluated"),
    ({"control": "imff"}, "there is no arm 'imff'; did you mean imf?"),
    ({"grid": {"objective": ["imf"]}, "evaluations": [{"episodes": 3}]}, "nothing can be compared with the control"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_cannot_work_is_one_clear_line(plan_of, keys, message):
    with pytest.raises(UserError) as raised:
        plan_of(**keys)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "suite.yaml" in str(raised.value) or "preset" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: [", "cannot be understood"),
        ("preset: a\npreset: b", "preset is given twice"),
        ("- 1", "must be a mapping"),
    ],
)
def test_files_that_are_no_suites(tmp_path, text, message):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_suite(path)
    with pytest.raises(UserError, match="cannot read suite"):
        read_suite(tmp_path / "none.yaml")


def test_numbers_without_a_point_are_numbers(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text("preset: debug\ntrain: {learning_rate: 1e-3}\ngrid: {seed: [0]}\nevaluations: [{name: a}]\n")
    (arm,) = make_plan(read_suite(path), tmp_path).arms
    assert arm.config.optimizer.learning_rate == 1e-3
    assert arm.name == "suite"


def test_argument_errors_exit_with_2():
    with pytest.raises(ArgumentError):
        build_config("debug", [{"n_emb": "x"}], "arm")
