"""What scripts/view.py writes is read back by Rerun itself; `make view-check` installs it."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from foreign_datasets import write_act, write_robomimic
from PIL import Image

from imf_jax.data.episodes import write_episodes
from imf_jax.evaluation.folder import read_records

pytest.importorskip("rerun", reason="needs the extra imf_jax[rerun]")

STEPS = 6
Recording = dict[str, dict[str, Any]]


def read(path: Path) -> Recording:
    """What a recording holds: entity -> column -> value if it does not change, else {step: value}."""
    from rerun.chunk import RrdReader

    found: Recording = {}
    for chunk in RrdReader(str(path)).stream():
        columns = chunk.to_record_batch().to_pydict()
        entity = found.setdefault(chunk.entity_path, {})
        assert chunk.is_static or set(chunk.timeline_names) == {"step", "time"}
        for name, values in columns.items():
            if ":" in name:
                entity.setdefault(name, {}).update(
                    {None: values[0]} if chunk.is_static else dict(zip(columns["step"], values, strict=True))
                )
    return found


def picture(blob: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(np.asarray(blob[0], np.uint8).tobytes())))


def project(camera: dict[str, Any], point: list[float], step: int = 0) -> np.ndarray:
    """Where a camera sees a point [pixels], by its own entity: x to the right, y down."""
    lens = np.reshape(camera["Pinhole:image_from_camera"][None], (3, 3)).T
    axes = np.reshape(camera["Transform3D:mat3x3"][step], (3, 3)).T
    right, up, back = axes.T @ (np.asarray(point) - camera["Transform3D:translation"][step][0])
    seen = lens @ [right, -up, -back]
    assert -back > 0
    return seen[:2] / seen[2]


def test_a_demonstration(script, demos, demonstration):
    shown = script("view.py", demos, "--episode", 1, "--out", "one.rrd")
    assert shown.code == 0
    assert "open it with: rerun one.rrd" in shown.out
    assert "note: no stages and no planned chunks" in shown.out
    episode, found = demonstration(1), read(Path("one.rrd"))
    box = found["/scene/box"]["Transform3D:translation"]
    np.testing.assert_allclose([box[step][0] for step in range(STEPS)], episode.env_state[:, :3], atol=1e-6)
    assert found["/scene/box/box"]["Boxes3D:half_sizes"]
    assert len(found["/scene/left_link3/11"]["Mesh3D:vertex_positions"][None]) > 1000
    commanded = found["/paths/commanded/left_link7/now"]["Points3D:positions"]
    np.testing.assert_allclose([commanded[step][0] for step in range(STEPS)], episode.action[:, :3])
    assert len(found["/paths/executed/right_link7"]["LineStrips3D:strips"][None][0]) == STEPS
    # What follows from a command stands at the next step.
    assert found["/outcome/reward"]["Scalars:scalars"] == {step + 1: [float(step)] for step in range(STEPS)}
    np.testing.assert_allclose(found["/state/left_arm"]["Scalars:scalars"][3], episode.state[3, :7])
    assert found["/action/left_position"]["SeriesLines:names"][None] == ["left_x", "left_y", "left_z"]
    # The picture stands where the camera of the scene is, which looks at the table.
    camera = found["/cameras/front"]
    np.testing.assert_allclose(project(camera, box[0][0]), [24, 16], atol=16)
    assert camera["Pinhole:resolution"][None] == [[48, 32]]
    blobs = camera["EncodedImage:blob"]
    for step in range(STEPS):
        assert picture(blobs[step]).shape == (32, 48, 3)
        assert abs(float(picture(blobs[step]).mean()) - 40 * step) < 2


def test_a_lerobot_dataset_shows_the_same(script, demos):
    assert script("data.py", "export", demos, "--out", "export").code == 0
    shown = script("view.py", "export", "--episode", 1, "--out", "export.rrd")
    assert shown.code == 0
    assert script("view.py", demos, "--episode", 1, "--out", "demos.rrd").code == 0
    ours, theirs = read(Path("demos.rrd")), read(Path("export.rrd"))
    assert set(ours) == set(theirs)
    for entity in set(ours) - {"/about", "/cameras/front"}:  # other title, and a video is not exact
        assert ours[entity] == theirs[entity]
    # A dataset of a robot without a task here is shown as far as it goes.
    for file in Path("export/meta/episodes").rglob("*.parquet"):
        rows = pq.read_table(file)
        place = rows.column_names.index("tasks")
        pq.write_table(rows.set_column(place, "tasks", [[["fold"]] * len(rows)]), file)
    unknown = script("view.py", "export", "--out", "unknown.rrd")
    assert "note: robot and objects are not drawn: task 'fold' is not known here; name it with --task" in unknown.out
    found = read(Path("unknown.rrd"))
    assert "/action/all" in found
    assert not any(entity.startswith("/scene/") for entity in found)
    assert script("view.py", "export", "--task", "transfer", "--out", "named.rrd").code == 0
    assert "/scene/box" in read(Path("named.rrd"))


def test_an_evaluation(script, write_run):
    run = write_run(Path("runs/tiny"))
    flags = ("--checkpoint", run, "--episodes", 2, "--out")
    assert script("eval.py", *flags, "evals/plain").code == 0
    kept = ("--save-trajectory", "--save-chunks", "--save-rerun", 1, "--record-video", 1, "--video-size", 32)
    assert script("eval.py", *flags, "evals/kept", *kept).code == 0
    plain, kept = (read_records(Path("evals") / name)[0] for name in ("plain", "kept"))
    assert [replace(record, artifacts={}) for record in kept] == plain
    assert [record.artifacts.get("rerun") for record in kept] == ["episodes/ep_000000/episode.rrd", None]
    assert "episodes/ep_000000/episode.rrd" in Path("evals/kept/report.html").read_text()

    assert script("view.py", "evals/kept", "--out", "zero.rrd").code == 0
    later, written = read(Path("zero.rrd")), read(Path("evals/kept/episodes/ep_000000/episode.rrd"))
    assert {**later, "/about": None} == {**written, "/about": None}
    with np.load("evals/kept/episodes/ep_000000/trajectory.npz") as file:
        arrays = {name: file[name] for name in file.files}
    plans = later["/paths/planned/left_link7"]["LineStrips3D:strips"]
    assert [step for step in plans if step is not None] == arrays["chunk_step"].tolist()
    for plan, step in enumerate(arrays["chunk_step"].tolist()):
        begin = int(arrays["chunk_begin"][plan])
        planned = arrays["chunk"][plan, -begin:, :3]
        np.testing.assert_allclose(plans[step][0], planned, atol=1e-6)
        executed = arrays["raw_action"][step : step + 8, :3]
        np.testing.assert_array_equal(executed, planned[: len(executed)])
    reached = later["/paths/executed/left_link7/now"]["Points3D:positions"]
    np.testing.assert_allclose(reached[20][0], arrays["executed_left_link7_pos"][19], atol=1e-6)
    # The drawn robot is where it was measured.
    pose = later["/scene/left_link7"]["Transform3D:translation"]
    np.testing.assert_allclose(pose[20][0], arrays["executed_left_link7_pos"][19], atol=1e-5)
    assert len(later["/cameras/front"]["EncodedImage:blob"]) == len(arrays["step"])

    beside = script("view.py", "evals/kept", "--compare", "evals/kept", "--episode", 1, "--out", "two.rrd")
    assert beside.code == 0
    assert "note: no pictures: no videos were recorded (--record-video)" in beside.out
    both = read(Path("two.rrd"))
    assert both["/first/scene/box"] == both["/second/scene/box"]


def test_datasets_of_others(script):
    """Their pictures and curves; nothing in 3-D."""
    for source, entity in ((write_act(Path("act")), "cam_high"), (write_robomimic(Path("lift.hdf5")), "agentview")):
        assert script("view.py", source, "--episode", 2, "--out", "one.rrd").code == 0
        found = read(Path("one.rrd"))
        assert len(found[f"/cameras/{entity}"]["EncodedImage:blob"]) == 9
        assert {"/action/all", "/state/all"} < set(found)
        assert not any(name.startswith(("/scene/", "/paths/")) for name in found)
    assert "/outcome/reward" in found


def test_an_interruption_leaves_no_file(script, demos, demonstration, monkeypatch):
    monkeypatch.setattr("imf_jax.viewing.rrd.encode_image", lambda *values, **options: 1 / 0)
    write_episodes(demos, [demonstration(2, {"front": np.zeros((STEPS, 16, 16, 3), np.uint8)})])
    with pytest.raises(ZeroDivisionError):
        script("view.py", demos, "--episode", 2)
    assert not [path for path in Path().iterdir() if ".rrd" in path.name]
