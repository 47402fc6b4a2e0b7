"""The check of what is compiled for a GPU: what it counts, what it calls broken, and kernels for another host."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import warp

from imf_jax.benchmark.cuda import check, compiler, kernels
from imf_jax.benchmark.cuda.check import Bounds, Row
from imf_jax.errors import ArgumentError
from imf_jax.sim.rendering.warp_runtime import start_warp

HLO = """HloModule jit_loop, is_scheduled=true

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %add = f32[4]{0} add(%p, %p)
}

%substep (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%arg), index=1
  %call = (f32[4]{0}, f32[4]{0}) custom-call(%x), custom_call_target="physics", api_version=API_VERSION_TYPED_FFI
  %y = f32[4]{0} get-tuple-element(%call), index=0
  %none = f32[4,0,3]{2,1,0} copy(%x)
  %more = f32[4]{0} fusion(%y), kind=kLoop, calls=%fused
  ROOT %out = (s32[], f32[4]{0}) tuple(%x, %more)
}

%always (arg: (s32[], f32[4])) -> pred[] {
  %arg.1 = (s32[], f32[4]{0}) parameter(0)
  ROOT %less = pred[] fusion(%arg.1), kind=kLoop, calls=%fused
}

%step (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg.2 = (s32[], f32[4]{0}) parameter(0)
  %inner = (s32[], f32[4]{0}) while(%arg.2), condition=%always, body=%substep, backend_config={TRIPS"5"}}
  %z = f32[4]{0} get-tuple-element(%inner), index=1
  %c = f32[4]{0} copy(%z)
  ROOT %out.2 = (s32[], f32[4]{0}) tuple(%z, %c)
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %p.1 = f32[4]{0} parameter(0)
  %outer = (s32[], f32[4]{0}) while(%p.1), condition=%always, body=%step, backend_config={TRIPS"8"}}
  %some = f32[4]{0} conditional(%p.1, %p.1), branch_computations={%fused, %always}
  ROOT %r = f32[4]{0} get-tuple-element(%outer), index=1
}
""".replace("TRIPS", '"known_trip_count":{"n":')

ROW = Row("loop", 64, launches=None, step=15, substep=2, scratch_mb=41.0, scene_mb=0.6, compile_s=1.0)


def test_launches_are_counted_through_loops_and_branches() -> None:
    found = compiler.parse(HLO)
    outer = compiler.loops_around(found, {"physics"})
    assert outer == ["step", "substep"]
    # A call and a fusion, but no copy of nothing; five of them, each with its condition, and a copy; eight of those,
    # and the larger branch.
    assert [compiler.launches(found, name) for name in reversed(outer)] == [2, 5 * (2 + 1) + 1]
    assert compiler.launches(found) == 8 * (16 + 1) + 1
    assert compiler.launches(found, distinct=True) == 1 + (1 + 2) + 1 + 1
    assert compiler.loops_around(found, {"nowhere"}) == []


@pytest.mark.parametrize(
    ("bounds", "broken"),
    [
        (Bounds(step=15, substep=2, scratch=0.1e6), ""),
        (Bounds(step=14, substep=2, scratch=0.1e6), "step 15 > 14"),
        (Bounds(step=15, substep=2), "scratch_mb 41 > 40"),
        (Bounds(launches=9, scratch=1e6), "launches unknown > 9"),
        (Bounds(distinct=9, scratch=1e6), "distinct unknown > 9"),
    ],
)
def test_bounds(bounds: Bounds, broken: str) -> None:
    assert check.broken_bounds(ROW, bounds) == broken


@pytest.mark.parametrize(
    ("row", "error", "code"), [(ROW, None, 0), (replace(ROW, broken="step 15 > 14"), None, 1), (ROW, "NVRTC failed", 1)]
)
def test_the_file_and_the_exit_code_tell_what_is_out_of_bounds(
    row: Row,
    error: str | None,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = kernels.CompiledModule("wp_smooth_1234567", 256, 3, cached=False, compile_s=1.0, error=error)
    monkeypatch.setattr(compiler, "prepare", lambda: None)
    monkeypatch.setattr(check, "programs", lambda: [(check.Program("loop", None, ()), 64)])
    monkeypatch.setattr(check, "measure", lambda program, scenes: row)
    monkeypatch.setattr(check, "record_loop", lambda task: kernels.Recorder())
    monkeypatch.setattr(check, "compile_modules", lambda recorder, folder: [module])
    out = tmp_path / "new" / "figures.json"
    assert check.main(["--json", str(out), "--kernels", str(tmp_path)]) == code
    written = json.loads(out.read_text())
    assert written["programs"][0]["step"] == 15
    assert written["kernels"][0]["name"] == module.name
    assert len(written["problems"]) == code
    assert f"1 modules for sm_90, 0 of them cached, {int(error is not None)} failed" in capsys.readouterr().out


def test_without_the_wheels_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiler.folder_of("imf_jax.benchmark.cuda") == str(Path(compiler.__file__).parent)
    assert compiler.folder_of("imf_jax.benchmark.none") is None
    assert compiler.folder_of("no_such.package") is None
    monkeypatch.setattr(compiler, "folder_of", lambda package: None)
    with pytest.raises(ArgumentError, match="make cuda-check"):
        compiler.prepare()


def test_a_program_that_does_not_compile_is_told_in_one_line() -> None:
    class Lowered:
        def compile(self) -> Any:
            raise RuntimeError("INTERNAL: Triton\n  failed")

    assert compiler.compile_program(Lowered()) == "INTERNAL: Triton failed"


def test_kernels_are_recorded_and_compiled_for_another_host(tmp_path: Path) -> None:
    start_warp()

    @warp.kernel(module="unique")
    def double(values: warp.array(dtype=float)):  # type: ignore[valid-type]
        place = warp.tid()
        values[place] = 2.0 * values[place]

    values = warp.ones(3, dtype=float, device="cpu")
    with kernels.recording(warp) as recorder:
        assert warp.get_device().is_cuda
        warp.launch(double, dim=3, inputs=[values])
        warp.launch(double, dim=0, inputs=[values])
        warp.capture_while(values, while_body=lambda: warp.launch(double, dim=(1, 3), inputs=[values]))
    assert values.numpy().tolist() == [1, 1, 1]
    assert [block for _, block in recorder.launched] == [kernels.BLOCK]

    folder = kernels.kernel_folder(tmp_path)
    assert folder == tmp_path / warp.config.version
    (module,) = kernels.compile_modules(recorder, folder)
    assert (module.kernels, module.cached, module.error) == (1, False, None)
    found = {path.name for path in (folder / module.name).iterdir()}
    # The list says that the files are Warp's own: without it a run would compile them again.
    assert {f"{module.name}.sm90.cubin", f"{module.name}.meta", "imf_jax.json"} <= found
    assert all(module.cached for module in kernels.compile_modules(recorder, folder))
