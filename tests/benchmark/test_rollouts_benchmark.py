"""The benchmark of the closed loop: its sides do the same work, and its figures follow from the times taken."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from point_world import PointBackend

from imf_jax.benchmark import device_figures, device_state, evaluation, lewm, scaling, suite
from imf_jax.benchmark.components import (
    SEED,
    bare_physics,
    bare_planning,
    bare_rendering,
    record_work,
    require_full_length,
)
from imf_jax.benchmark.device_figures import NOT_MEASURED, PROMISED_SIZES, DeviceFigure, measure_device
from imf_jax.benchmark.evaluation import EvaluationFigures, measure_evaluation
from imf_jax.benchmark.frames import measure_frames
from imf_jax.benchmark.rollouts import (
    BatchClock,
    MeasuredPolicy,
    measure_loop,
    require_whole_plans,
    run_batches,
)
from imf_jax.benchmark.scaling import ScalingFigures, batch_sizes, measure_scaling
from imf_jax.benchmark.sequential import SequentialSystem
from imf_jax.benchmark.suite import RolloutFigures, Views, measure_rollouts, untrained_policies
from imf_jax.benchmark.tables import markdown, scaling_plot
from imf_jax.config import PictureStyle
from imf_jax.errors import ArgumentError, UserError
from imf_jax.models.encoders.lewm import LewmSizes
from imf_jax.models.encoders.vit import VitSizes
from imf_jax.plots import require_matplotlib
from imf_jax.presets import load_preset
from imf_jax.rollout import capacity, capture
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.episode_log import RolloutProgress, RolloutResult
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.tasks.transfer import Transfer

STEPS = 24
TINY = LewmSizes(VitSizes(hidden=16, layers=1, heads=1, mlp=16, patch=14, image_size=224), 24, output=12)


@pytest.fixture(scope="module")
def state() -> MeasuredPolicy:
    return untrained_policies([(32, 2)], None)[0]


@pytest.fixture
def seeing(monkeypatch: pytest.MonkeyPatch) -> MeasuredPolicy:
    monkeypatch.setattr(lewm, "SIZES", TINY)
    return untrained_policies([], (32, 2), views=[Views("grid", 32)])[0]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, transfer_backend: NativeBackend) -> NativeBackend:
    """The scene that all tests share, wherever the benchmark would build its own."""
    for module in ("rollouts", "frames"):
        monkeypatch.setattr(f"imf_jax.benchmark.{module}.make_backend", lambda *_, **__: transfer_backend)
    return transfer_backend


def test_bare_physics_ends_where_the_loop_and_the_baseline_end(state: MeasuredPolicy, transfer_backend: Any) -> None:
    work = record_work(transfer_backend, state.plan_with(4), batch=3, steps=STEPS)
    assert work.actions.shape == (3, 3, 8, 16)
    assert np.abs(work.actions[0] - work.actions[1]).max() > 0.05, "the arms are on their way"
    end = bare_physics(transfer_backend, work)()
    keys = np.asarray(jax.random.key_data(scene_keys(SEED, range(3))))
    sim, output = transfer_backend.reset(keys)
    for chunk in work.actions:
        sim, output = transfer_backend.run_chunk(sim, chunk)
    np.testing.assert_array_equal(end.physics, sim.physics)
    # The baseline plans on its own, from its own readings.
    baseline = SequentialSystem("transfer", state.plan_with(1))
    for episode in range(3):
        seconds, qpos = baseline.run(episode, STEPS)
        assert seconds > 0
        np.testing.assert_allclose(qpos, output.qpos[episode, -1], atol=1e-4)


def test_work_is_whole_although_recorders_get_a_few_scenes_at_a_time(
    state: MeasuredPolicy, transfer_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = record_work(transfer_backend, state.plan_with(4), batch=3, steps=STEPS)
    monkeypatch.setattr(capture, "SCENES_AT_ONCE", 2)
    jax.tree.map(
        np.testing.assert_array_equal, record_work(transfer_backend, state.plan_with(4), batch=3, steps=STEPS), whole
    )


def test_bare_plans_read_what_the_loop_read(state: MeasuredPolicy, transfer_backend: Any) -> None:
    planner = state.plan_with(4)
    work = record_work(transfer_backend, planner, batch=4, steps=STEPS)
    for plan, observations in enumerate(work.observations):
        again = planner.plan(observations, None, SEED, np.arange(4), np.full(4, plan))
        np.testing.assert_array_equal(again, work.actions[plan])
    last = np.asarray(bare_planning(transfer_backend, planner, work)())
    np.testing.assert_array_equal(last, work.actions[-1])


def test_bare_rendering_makes_the_frames_of_the_loop(seeing: MeasuredPolicy) -> None:
    backend = NativeBackend("transfer", visual="primitive", image_size=32)
    planner = seeing.plan_with(2)
    work = record_work(backend, planner, batch=2, steps=16)
    _, result = run_batches(backend, planner, batch=2, steps=16, batches=1)
    frames = bare_rendering(backend, planner, work)()
    assert sum(batch.shape[0] * batch.shape[1] for batch in frames) == result.frames_rendered == 2 * 3 * (1 + 2)
    assert frames[0].shape == (2, 3, 32, 32, 3)
    assert bare_planning(backend, planner, work)().shape == (2, 8, 16)
    seconds, _ = SequentialSystem("transfer", planner=seeing.plan_with(1)).run(0, 9)
    assert seconds > 0


def test_loop_figures_belong_together(state: MeasuredPolicy, here: NativeBackend) -> None:
    row = measure_loop(state, "native", batch=4, steps=16, repeats=3)
    assert row.rendering_us is None
    assert row.loop_us == pytest.approx(1e6 / row.steps_per_s)
    assert row.bound_us >= max(row.physics_us, row.planning_us)
    assert min(row.share, row.ratio, row.one_by_one_per_s, row.warmup_s) > 0


@pytest.mark.parametrize("steps", [12, 0])
def test_episodes_must_be_whole_plans(state: MeasuredPolicy, steps: int) -> None:
    with pytest.raises(ArgumentError, match=rf"--steps {steps} must be a multiple of the 8 actions"):
        measure_loop(state, "native", batch=1, steps=steps, repeats=1)


def test_episodes_must_be_whole_calls_of_a_compiled_loop(state: MeasuredPolicy) -> None:
    planner = state.plan_with(1)
    for steps in (8, 24, 40, 200):
        require_whole_plans(steps, planner, "warp")
    require_whole_plans(48, planner, "native")
    with pytest.raises(ArgumentError, match="--steps 48 must be a multiple of the 40 control steps that --backend mjx"):
        require_whole_plans(48, planner, "mjx")


def test_a_renderer_without_pictures_is_refused(state: MeasuredPolicy) -> None:
    options: dict[str, Any] = {"batch": 1, "steps": 8, "repeats": 1, "max_batch": 1, "max_seconds": 1.0}
    with pytest.raises(ArgumentError, match="nothing would be drawn by opengl; leave out --renderer"):
        measure_rollouts([state], "native", style=PictureStyle("opengl"), **options)


def test_early_ends_are_refused() -> None:
    record = EpisodeRecord(3, 0, 0, "success", 7, 0, 6, 4.0, 4.0, 6, 1)
    require_full_length([record], 7)
    with pytest.raises(ArgumentError, match="episode 3 ended as success after 7 of 8 control steps"):
        require_full_length([record], 8)


def test_waves_are_timed_without_what_comes_between() -> None:
    clock = BatchClock(2, lambda: None)
    for episodes, loop_s in ((1, 1.0), (2, 3.0), (3, 4.0), (4, 4.5)):
        clock(RolloutProgress(episodes, 0, 0, loop_s, 0.0))
    assert clock.seconds == [3.0, pytest.approx(1.5, abs=1e-3)]
    waits: list[float] = []
    clock = BatchClock(1, lambda: waits.append(0.0))
    clock(RolloutProgress(1, 0, 0, 1.0, 0.0))
    assert len(waits) == 1


def test_scaling_stops_at_memory_and_time(state: MeasuredPolicy, here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [batch_sizes(n) for n in (1, 3, 4, 100)] == [[1], [1, 3], [1, 4], [1, 4, 16, 64, 100]]
    options = {"sizes": [1, 4], "steps": 8, "repeats": 2}
    rows = measure_scaling(state, "native", max_seconds=60, **options)
    assert [(row.batch, row.note) for row in rows] == [(1, ""), (4, "")]
    assert all(row.steps_per_s and row.batches for row in rows)
    late = measure_scaling(state, "native", max_seconds=1e-9, **options)
    assert [(row.batch, row.steps_per_s is None) for row in late] == [(1, False), (4, True)]
    assert "raise --max-seconds" in late[1].note
    monkeypatch.setattr(capacity, "free_main_memory", lambda: 1000)
    (full,) = measure_scaling(state, "native", max_seconds=60, **options)
    assert full.steps_per_s is None
    assert "the largest --num-envs that fits" in full.note


def test_scaling_keeps_what_it_has_when_an_episode_ends_early(
    state: MeasuredPolicy, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_early(*arguments: Any, batch: int, **settings: Any) -> Any:
        if batch > 1:
            require_full_length([EpisodeRecord(3, 0, 0, "failure", 5, 0, 4, 0.0, 0.0, None, 1)], 8)
        return run_batches(*arguments, batch=batch, **settings)

    monkeypatch.setattr(scaling, "run_batches", end_early)
    first, second = measure_scaling(state, "native", sizes=[1, 4], steps=8, repeats=1, max_seconds=60)
    assert first.steps_per_s
    assert (second.batch, second.steps_per_s) == (4, None)
    assert "ended as failure after 5 of 8 control steps" in second.note


def test_an_evaluation_stands_beside_its_frozen_form(monkeypatch: pytest.MonkeyPatch, transfer_backend: Any) -> None:
    monkeypatch.setattr(evaluation, "make_backend", lambda *_, **__: transfer_backend)
    options = {"batch": 2, "episodes": 4, "max_steps": 20}
    host = measure_evaluation("transfer", "native", **options)
    assert (host.episodes, host.success, host.useful_share, host.frozen_per_s) == (4, 0.0, 1.0, None)
    assert host.episodes_per_s > 0

    forms: list[dict[str, Any]] = []

    def make_rollout(*_: Any, on_record: Any, refill: bool = True, **options: Any) -> Any:
        def run() -> RolloutResult:
            forms.append(options)
            for episode in range(4):
                on_record(EpisodeRecord(episode, 0, 0, "success", 5, 0, 4, 0.0, 0.0, None, 1))
            return RolloutResult(wall_s=1.0 if refill else 4.0, scene_steps=100, live_scene_steps=90 if refill else 30)

        return SimpleNamespace(run=run)

    monkeypatch.setattr(evaluation, "make_rollout", make_rollout)
    monkeypatch.setattr(evaluation, "require_fit", lambda *_: None)
    monkeypatch.setattr(evaluation, "make_backend", lambda *_, **__: SimpleNamespace(compiled=True))
    figures = measure_evaluation("transfer", "mjx", **options)
    assert forms[0] == forms[1]
    assert (figures.success, figures.episodes_per_s, figures.useful_share) == (1.0, 4.0, 0.9)
    assert (figures.frozen_per_s, figures.frozen_share, figures.ratio) == (1.0, 0.3, 4.0)


def test_sizes_above_a_failure_are_left_out_and_smaller_ones_are_measured(
    state: MeasuredPolicy, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, batch: int, **settings: Any) -> Any:
        if batch >= 4:
            raise RuntimeError("RESOURCE_EXHAUSTED:\nout of memory")
        return run_batches(*arguments, batch=batch, **settings)

    monkeypatch.setattr(scaling, "run_batches", fail)
    known: list[ScalingFigures] = []
    options: dict[str, Any] = {"sizes": [4, 8, 1, 16], "steps": 8, "repeats": 1, "max_seconds": 60}
    rows = measure_scaling(state, "native", on_row=known.append, **options)
    assert known == rows
    assert [(row.batch, row.steps_per_s is None, row.note) for row in rows] == [
        (4, True, "RESOURCE_EXHAUSTED: out of memory"),
        (1, False, ""),
    ]


def test_compilation_is_no_part_of_the_time_budget(
    state: MeasuredPolicy, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: Any, batch: int, batches: int, **settings: Any) -> Any:
        return [0.01] * batches, RolloutResult(warmup_s=1000.0)

    monkeypatch.setattr(scaling, "run_batches", run)
    rows = measure_scaling(state, "native", sizes=[1, 4], steps=8, repeats=1, max_seconds=1.0)
    assert [(row.batch, row.steps_per_s, row.warmup_s) for row in rows] == [(1, 800, 1000), (4, 3200, 1000)]


def device_rows(policies: list[MeasuredPolicy], rows: list[ScalingFigures], **options: Any) -> list[DeviceFigure]:
    found: list[DeviceFigure] = []
    measure_device(policies, rows, "native", attempt=lambda what, measure: measure(), on_figure=found.append, **options)
    return found


def test_without_a_gpu_nothing_is_promised(state: MeasuredPolicy, seeing: MeasuredPolicy) -> None:
    rows = device_rows([state, seeing], [], sizes=None, max_seconds=60)
    assert [(row.figure, row.target) for row in rows] == [
        (NOT_MEASURED, target)
        for target in (
            *(">= 85,000", ">= 250,000", "<= 0.5", ">= 20,000", "<= 1.5", "<= 600", "<= 60", ""),
            *(">= 20,000", "<= 1.5", "<= 60", ""),
        )
    ]


def test_promised_figures_are_filled_where_a_gpu_is(
    state: MeasuredPolicy, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = PROMISED_SIZES._replace(plans=3, episodes=5, frames_batch=2, frames_steps=1)
    rows = measure_scaling(state, "native", sizes=[1, 4], steps=8, repeats=1, max_seconds=60)
    rate, frames, plan = device_rows([state], rows, sizes=sizes, max_seconds=60)
    assert rate.figure == max(row.steps_per_s or 0 for row in rows)
    assert frames.what == "one camera 64x64 without a policy, 2 scenes"
    for figure in (plan.figure, frames.figure):
        assert isinstance(figure, float)
        assert figure > 0
    # The evaluation has another task and length than the batches, but the same loop.
    monkeypatch.setattr(Transfer, "max_steps", 16)
    monkeypatch.setattr(device_figures, "get_task", lambda name: here.task)
    options: dict[str, Any] = {"style": PictureStyle(), "sizes": sizes}
    seconds, note = device_figures.evaluation_time(rows, state, "native", max_seconds=60, **options)
    assert isinstance(seconds, float)
    assert note.endswith("; 0 ended early")
    refused, note = device_figures.evaluation_time(rows, state, "native", max_seconds=1e-9, **options)
    assert (refused, note.endswith("raise --max-seconds")) == (NOT_MEASURED, True)


def test_training_is_timed_on_a_copy(seeing: MeasuredPolicy) -> None:
    sizes = PROMISED_SIZES._replace(training_steps=2)
    seconds, note = device_figures.training_time(seeing, sizes)
    assert isinstance(seconds, float)
    assert (seconds > 0, note) == (True, "from 2 steps, after compilation")
    assert np.isfinite(seeing.plan_with(1).weights["head"]["output"]["bias"][...]).all(), "not used up"


def test_frames_are_counted(here: NativeBackend) -> None:
    rate = measure_frames("native", "transfer", batch=2, cameras=("front",), image_size=96, steps=2, repeats=1)
    assert rate.frames_per_s > 0
    assert rate.first_call_s > 0


class OnDevice(PointBackend):
    """What programs of a device may use of a backend, and nothing that is for the host."""

    def reset(self, keys: Any) -> Any:
        raise AssertionError("for the host")

    step = reset

    def start(self, constants: Any, data: Any, keys: Any) -> Any:
        return PointBackend.reset(self, keys)

    def advance(self, constants: Any, data: Any, state: Any, action: Any) -> Any:
        return (data, *PointBackend.step(self, state, action))


def test_frames_are_counted_inside_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imf_jax.benchmark.frames.make_backend", lambda *_, **__: OnDevice())
    rate = measure_frames("warp", "transfer", batch=3, cameras=("front",), image_size=4, steps=2, repeats=1)
    assert rate.frames_per_s > 0


def test_tables_and_plot(state: MeasuredPolicy, here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row = EvaluationFigures("transfer", "native", 2, 4, 0.75, 1.0, 1.0, None, None, None)
    monkeypatch.setattr(suite, "measure_evaluation", lambda *_, **__: row)
    said: list[str] = []
    known: list[tuple[int, int]] = []
    figures = measure_rollouts(
        [state], "native", batch=2, steps=8, repeats=1, max_batch=4, max_seconds=60, say=said.append,
        on_figures=lambda figures: known.append((len(figures.loops), len(figures.scaling))),
    )  # fmt: skip
    assert isinstance(figures, RolloutFigures)
    assert len(said) == 4
    assert list(dict.fromkeys(known)) == [(1, 0), (2, 0), (2, 1), (2, 2)], "after every row"
    assert [row.policy for row in figures.loops] == ["state, 32/2", "state, 32/2, in contact"]
    assert figures.evaluation == [row]
    tables = figures.tables()
    json.dumps([table.rows for table in tables], allow_nan=False)
    page = markdown(tables)
    assert "| policy | state, 32/2 | state, 32/2, in contact |" in page
    assert page.count("not measured") == 12
    picture = scaling_plot(figures.scaling)
    assert picture.startswith(b"<?xml")
    assert b"<!-- state, 32/2 -->" in picture


def test_on_a_gpu_the_policy_that_sees_comes_first_and_a_failure_costs_its_own_row_only(
    state: MeasuredPolicy, seeing: MeasuredPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of a GPU, with measurements that are done elsewhere."""
    order: list[str] = []

    def scale(policy: MeasuredPolicy, backend: str, *, sizes: Any, on_row: Any, **options: Any) -> None:
        order.append(f"{policy.label}: {sizes}")
        on_row(ScalingFigures(policy.label, backend, 1024, 200, 1, 5.0, 1.0))

    def loop(policy: MeasuredPolicy, *_: Any, **__: Any) -> Any:
        order.append(policy.label)
        if policy is seeing:
            raise ArgumentError("256 scenes at once need about 90 GB")
        raise RuntimeError("device lost")

    monkeypatch.setattr(suite, "on_cuda", lambda: True)
    monkeypatch.setattr(suite, "measure_scaling", scale)
    monkeypatch.setattr(suite, "measure_loop", loop)
    monkeypatch.setattr(suite, "measure_device", lambda *_, **__: order.append("promised"))
    monkeypatch.setattr(suite, "actions_in_contact", lambda *_: np.zeros((1, 8, 16), np.float32))
    row = EvaluationFigures("transfer", "native", 2, 4, 0.75, 1.0, 1.0, None, None, None)
    monkeypatch.setattr(suite, "measure_evaluation", lambda *_, **__: order.append("evaluation") or row)
    figures = measure_rollouts(
        [state, seeing], "native", batch=None, steps=200, repeats=1, max_batch=4096, max_seconds=60
    )
    see, blind = seeing.label, state.label
    first, rest = "[1024, 4096]", "[1, 4, 16, 64, 256]"
    assert order == [
        f"{see}: {first}", f"{blind}: {first}", "promised", see, blind, f"{blind}, in contact",
        "evaluation", f"{see}: {rest}", f"{blind}: {rest}",
    ]  # fmt: skip
    assert len(figures.scaling) == 4
    assert [problem.why for problem in figures.problems] == [
        "256 scenes at once need about 90 GB", "device lost", "device lost",
    ]  # fmt: skip
    titles = [table.title.split(";")[0] for table in figures.tables()]
    assert titles == ["Closed loop over batch sizes", "Evaluation of the disturbed expert", "Failed"]


def test_on_a_gpu_the_layout_of_the_presets_is_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "on_cuda", lambda: True)
    encoders = [load_preset(name).policy.encoder for name in ("lewm-384", "lewm-256")]
    assert {Views(encoder.fusion, encoder.image_size) for encoder in encoders} <= set(suite.usual_views())
    assert suite.usual_views()[0] == Views("grid", 128), "the promised figure first"


class FakeWarp:
    """Warp on a machine with CUDA, as far as the state of the device is concerned."""

    class ScopedCapture:
        def __enter__(self) -> str:
            return "captured"

        def __exit__(self, *problem: object) -> None: ...

    @staticmethod
    def is_cuda_available() -> bool:
        return True

    is_mempool_supported = staticmethod(lambda device: True)
    get_mempool_used_mem_high = staticmethod(lambda device: 3_000_000_000)


def test_captures_and_peak_memory_are_those_of_warp_and_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (device_state.peak_memory_gb(), device_state.captured_graphs()) == (None, None), "not on a CPU"
    monkeypatch.setattr(device_state, "_captured", 0)
    for _ in range(2):
        device_state.count_captures(FakeWarp)
    with FakeWarp.ScopedCapture() as found:
        assert found == "captured"
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: {"peak_bytes_in_use": 2_000_000_000})
    monkeypatch.setattr("jax.local_devices", lambda: [device])
    monkeypatch.setitem(sys.modules, "warp", FakeWarp)
    assert device_state.captured_graphs() == 1
    assert device_state.peak_memory_gb() == 5.0


def test_driver_and_nvidia_smi_are_read_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n[ $# -gt 0 ] && echo 580.95.05 || echo table\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert (device_state.driver_version(), device_state.nvidia_smi()) == ("580.95.05", "table")
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert (device_state.driver_version(), device_state.nvidia_smi()) == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert device_state.nvidia_smi() is None


def test_a_plot_without_matplotlib_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'imf_jax\[plots\]'"):
        require_matplotlib("take --json instead of --out")
