"""Episodes to look at from every source, and what cannot be looked at; Rerun is not needed for it."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from foreign_datasets import BRIGHTER, write_act, write_robomimic

from imf_jax.commands.view import open_source
from imf_jax.data.lerobot.export import export_demonstrations
from imf_jax.errors import ArgumentError, UserError
from imf_jax.evaluation.folder import read_records
from imf_jax.evaluation.viewing import open_compared, open_evaluated
from imf_jax.seeds import scene_keys
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.viewing.demonstrations import open_demonstration
from imf_jax.viewing.episode import positions_from_state, scene_of
from imf_jax.viewing.geometry import camera_poses, focal_length
from imf_jax.viewing.paths import commanded_paths, planned_paths
from imf_jax.viewing.trajectory import trajectory_episode


def test_demonstrations_and_their_export_are_the_same(demos, demonstration):
    export_demonstrations(demos, Path("export"))
    first, other = (open_source(Path(name), 1, None, None)[0] for name in ("demos", "export"))
    episode = demonstration(1)
    for found in (first, other):
        assert (found.hz, found.first_state, found.drawn_objects) == (50.0, 0, True)
        np.testing.assert_array_equal(found.action, episode.action)
        np.testing.assert_array_equal(found.state, episode.state)
        np.testing.assert_array_equal(found.reward, episode.reward)
        np.testing.assert_array_equal(found.qpos, first.qpos)
        assert found.notes == ("no stages and no planned chunks: datasets do not hold them",)
        assert [picture.mean() for picture in found.cameras["front"]()] == pytest.approx(40 * np.arange(6), abs=2)
        assert commanded_paths(found)["left_link7"].tolist() == episode.action[:, :3].tolist()
        assert planned_paths(found) == {}


def test_datasets_of_others(tmp_path):
    """Curves and pictures; the robot where the user names a task that has it."""
    folder = write_act(tmp_path / "act")
    act = open_demonstration(folder, 0)
    assert act.action_names[:2] == ("left_waist", "left_shoulder")
    assert (act.scene, act.qpos, act.reward, list(act.cameras)) == (None, None, None, ["cam_high"])
    assert act.notes[0] == "robot and objects are not drawn: it does not say its task; name it with --task"
    brightness = [picture.mean() for picture in act.cameras["cam_high"]()]
    np.testing.assert_allclose(np.diff(brightness), BRIGHTER, atol=2)
    pytest.importorskip("gym_aloha")
    aloha = open_demonstration(folder, 0, "aloha-transfer")
    assert (aloha.qpos is not None, aloha.drawn_objects) == (True, False)
    assert "objects are not drawn: their poses were not recorded" in aloha.notes
    assert commanded_paths(aloha).keys() == set(aloha.spaces.effectors), "of joint targets, by forward kinematics"


def test_a_robomimic_file_with_a_value_that_is_not_finite(tmp_path):
    """It is shown as it is: to look at what is wrong is what a viewer is for."""
    import h5py

    path = write_robomimic(tmp_path / "lift.hdf5")
    with h5py.File(path, "r+") as file:
        file["data/demo_1/actions"][3, 0] = np.nan
    (found,) = open_source(path, 1, None, None)
    assert np.argwhere(np.isnan(found.action)).tolist() == [[3, 0]]
    assert found.state_names[:3] == ("obs/robot0_eef_pos0", "obs/robot0_eef_pos1", "obs/robot0_eef_pos2")
    assert found.reward.shape == (len(found.action),)
    assert found.notes[0] == "robot and objects are not drawn: task 'Lift' is not known here; name it with --task"
    wrong = open_demonstration(path, 1, "transfer")
    assert wrong.notes[0].startswith(
        "robot and objects are not drawn: the state has 9 entries, that of task 'transfer'"
    )
    with pytest.raises(ArgumentError, match=r"--episode 12 must be in \[0, 11\]"):
        open_source(path, 12, None, None)


def test_what_is_no_source(demos, tmp_path):
    (tmp_path / "runs").mkdir()
    for path, message in (
        ("nowhere", "nowhere is not there"),
        ("runs", r"runs holds no evaluation \(manifest.json\), no HDF5 episodes"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(Path(path), 0, None, None)
    with pytest.raises(ArgumentError, match="--compare is for two evaluations, and demos is none"):
        open_source(demos, 0, demos, None)
    with pytest.raises(ArgumentError, match="nothing"):
        open_source(demos, 0, None, "nothing")


def test_an_evaluation(script, write_run):
    run = write_run(Path("runs/tiny"))
    command = ("eval.py", "--checkpoint", run, "--episodes", 2, "--out")
    assert script(*command, "plain").code == 0
    assert script(*command, "kept", "--save-trajectory", "--save-chunks").code == 0
    plain, kept = (read_records(Path(name))[0] for name in ("plain", "kept"))
    assert [replace(record, artifacts={}) for record in kept] == plain
    with np.load("kept/episodes/ep_000001/trajectory.npz") as file:
        arrays = {name: file[name] for name in file.files}

    found = open_evaluated(Path("kept"), 1)
    plans = list(range(0, len(arrays["step"]), 8))
    assert found.chunks.step.tolist() == plans
    assert found.chunks.begin.tolist() == [-1] * len(plans), "with the action before the observation"
    for step, chunk in zip(found.chunks.step, found.chunks.actions, strict=True):
        executed = arrays["raw_action"][step : step + 8]
        np.testing.assert_array_equal(executed, chunk[1 : 1 + len(executed)])
    paths = planned_paths(found)["right_link7"]
    assert [len(path) for path in paths] == [15] * len(plans)
    np.testing.assert_array_equal(paths[1], found.chunks.actions[1, 1:, 8:11])
    np.testing.assert_array_equal(found.executed["left_link7"], arrays["executed_left_link7_pos"])
    assert found.notes == ("no pictures: no videos were recorded (--record-video)",)
    assert len(open_compared(Path("kept"), Path("kept"), 1)) == 2

    with pytest.raises(UserError, match=r"holds no trajectory of episode 0; record it with: eval.py --save-trajectory"):
        open_evaluated(Path("plain"), 0)
    with pytest.raises(ArgumentError, match="--episode 2 is not in kept; its episodes: 0 to 1"):
        open_evaluated(Path("kept"), 2)
    other = shutil.copytree("kept", Path("other"))
    lines = [replace(record, seed=record.seed + 1).to_json() for record in kept]
    (other / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ArgumentError, match=r"are different scenes: task transfer, seed .* evaluate both with one --s"):
        open_compared(other, Path("kept"), 0)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"task": "insert"}))
    with pytest.raises(UserError, match="it is not one of task 'insert'"):
        open_evaluated(other, 0)
    (other / "episodes/ep_000001/trajectory.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"trajectory.npz: cannot be read .* evaluate that episode again"):
        open_evaluated(other, 1)


def test_trajectories_of_older_versions():
    """They held neither state nor positions."""
    arrays = {"raw_action": np.zeros((4, 16), np.float32), "reward": np.zeros(4, np.float32)}
    found = trajectory_episode("old", arrays, 50.0, scene=None, cameras={}, perturbations={"object-size": 1.0})
    assert (found.state, found.stage, found.qpos, found.chunks) == (None, None, None, None)
    assert any("usual size" in note for note in found.notes)
    assert any("--save-chunks" in note for note in found.notes)


def test_flags_that_make_no_sense(script, write_run, monkeypatch):
    run = write_run(Path("runs/tiny"))
    command = ("eval.py", "--checkpoint", run, "--episodes", 2, "--out", "out")
    for flags, message in (
        (("--save-rerun", "some"), "--save-rerun"),
        (("--save-rerun", -1), "--save-rerun is -1; it must be all, failures, none, or the number of first episodes"),
        (("--save-chunks",), "--save-chunks would do nothing; add --save-trajectory"),
    ):
        refused = script(*command, *flags)
        assert (refused.code, message in refused.err) == (2, True), refused
    monkeypatch.setitem(sys.modules, "rerun", None)
    missing = script(*command, "--save-rerun", 1)
    assert (missing.code, "pip install 'imf_jax[rerun]'" in missing.err) == (1, True)
    assert not Path("out/episodes.jsonl").exists(), "it is said before anything is rolled out"


def test_the_package_is_named_where_it_is_missing(script, demos, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    missing = script("view.py", demos)
    assert (missing.code, "pip install 'imf_jax[rerun]'" in missing.err) == (1, True)
    assert len(missing.err.splitlines()) == 1
    for flags, message in (
        (("--out", "one.mp4"), "--out one.mp4 must end in .rrd"),
        (("--out", "demos.rrd"), "--out demos.rrd is a folder; name a file"),
    ):
        Path("demos.rrd").mkdir(exist_ok=True)
        refused = script("view.py", demos, *flags)
        assert (refused.code, message in refused.err) == (2, True), refused


def test_the_viewer_opens_where_there_is_a_screen(script, demos, monkeypatch):
    started = []
    monkeypatch.setattr("imf_jax.viewing.rrd.require_rerun", lambda: None)
    monkeypatch.setattr("imf_jax.viewing.rrd.write_recording", lambda path, episodes: path.touch())
    monkeypatch.setattr("subprocess.Popen", lambda command, **options: started.append(command))
    monkeypatch.setenv("DISPLAY", ":0")
    assert script("view.py", demos).code == 0
    assert started == [[sys.executable, "-m", "rerun", "--bind", "127.0.0.1", "demos_0.rrd"]]
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "open it with: rerun demos_0.rrd" in script("view.py", demos).out
    assert "open it with: rerun 'a b.rrd'" in script("view.py", demos, "--out", "a b.rrd").out
    assert len(started) == 1


def test_positions_are_those_that_the_backend_has(transfer_backend: NativeBackend):
    _, output = transfer_backend.reset(scene_keys(0, [0, 1]))
    qpos, objects, notes = positions_from_state(scene_of("transfer"), output.state, output.env_state)
    np.testing.assert_allclose(qpos, output.qpos, atol=1e-6)
    assert (objects, notes) == (True, ())
    assert positions_from_state(scene_of("transfer"), output.state, None)[1:] == (
        False,
        ("objects are not drawn: their poses were not recorded",),
    )
    assert positions_from_state(scene_of("transfer"), output.state[:, :3], None)[0] is None


def test_cameras_see_what_their_pictures_show(transfer_backend: NativeBackend):
    """An object, projected, is where a picture changes when it is gone."""
    _, output = transfer_backend.reset(scene_keys(0, [0]))
    model, qpos = transfer_backend.model, np.asarray(output.qpos)
    boxes = transfer_backend.task.objects
    for camera in ("front", "top"):
        before = transfer_backend.render(qpos, (camera,))[0, 0].astype(int)
        moved = qpos.copy()
        address = int(model.joint(model.body(boxes[0]).jntadr[0]).qposadr[0])
        moved[0, address : address + 3] += [0, 0, -1]  # below the table, out of sight
        after = transfer_backend.render(moved, (camera,))[0, 0].astype(int)
        rows, columns = np.nonzero(np.abs(before - after).sum(axis=-1) > 30)
        (position,), (axes,) = camera_poses(model, camera, qpos)
        right, up, back = axes.T @ (qpos[0, address : address + 3] - position)
        height, width = before.shape[:2]
        focal = focal_length(model, camera, height)
        seen = [width / 2 + focal * right / -back, height / 2 - focal * up / -back]
        np.testing.assert_allclose(seen, [columns.mean(), rows.mean()], atol=0.04 * height)
