"""Whole runs: resuming is exact, validation chooses the best checkpoint, wrong folders are refused."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from transfer_task import SPACES

from imf_jax import checkpoints
from imf_jax.config import RegressionConfig, UnetConfig, to_dict
from imf_jax.data.episodes import write_episode
from imf_jax.data.statistics import write_statistics
from imf_jax.data.windows import load_demonstrations
from imf_jax.errors import EXIT_INTERRUPTED, EXIT_OK, ArgumentError, UserError
from imf_jax.files import read_metrics
from imf_jax.models.policy import build_policy, with_action_dim
from imf_jax.training import loop, progress, saved_state, trainer
from imf_jax.training.state import compile_run_steps, initial_state
from imf_jax.training.validation import Validation


def restored(config):
    """The training state in the newest checkpoint of a run."""
    policy = build_policy(config, SPACES, 7)
    template, frozen = initial_state(policy, config)
    return saved_state.restore_state(checkpoints.newest_checkpoint(config.out), template, frozen)


def test_grouping_of_steps_does_not_matter(config, same_leaves):
    data, statistics = load_demonstrations(config.data)

    def run(*counts):
        policy = build_policy(config, SPACES, 7)
        policy.set_statistics(statistics.arrays)
        state, frozen = initial_state(policy, config)
        steps = compile_run_steps(config, state, frozen, data)
        for count in counts:
            state = steps(state, frozen.variables, data, jnp.int32(count))
        return state

    once = run(4)
    same_leaves(run(2, 2), once)
    same_leaves(run(1, 3), once)
    assert int(once.step) == 4
    assert float(once.sums["count"]) == 4


def test_checkpoints_carry_the_objective_and_network_and_the_log_has_what_the_loss_returns(config, with_out):
    head = UnetConfig(widths=(8, 16), kernel_size=3, groups=4, time_dim=8)
    policy = replace(config.policy, head=head, objective=RegressionConfig())
    run = with_out("run", policy=policy, max_steps=2)
    assert loop.train(run) == EXIT_OK
    (line,) = read_metrics(run.out)
    assert list(line) == ["step", "loss", "grad_norm", "learning_rate", "steps_per_s", "step_share"]
    loaded = checkpoints.load_policy(run.out)
    assert (loaded.policy.config.head, loaded.policy.config.objective) == (head, RegressionConfig())


@pytest.mark.long
def test_two_and_two_steps_equal_four(config, with_out, same_leaves):
    whole = with_out("whole")
    assert loop.train(whole) == EXIT_OK
    halves = with_out("halves", max_steps=2)
    assert loop.train(halves) == EXIT_OK
    resumed = replace(halves, max_steps=4, resume=True)
    assert loop.train(resumed) == EXIT_OK
    same_leaves(restored(resumed), restored(whole))
    initial, _ = initial_state(build_policy(whole, SPACES, 7), whole)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), initial.params, restored(whole).params)
    assert all(jax.tree.leaves(moved))
    losses = [{k: v for k, v in line.items() if k in ("step", "loss")} for line in read_metrics(whole.out)]
    again = [{k: v for k, v in line.items() if k in ("step", "loss")} for line in read_metrics(resumed.out)]
    assert losses == again
    assert [line["step"] for line in losses] == [2, 4]


def test_resume_skips_a_half_written_checkpoint(with_out, same_leaves):
    whole = with_out("whole", save_every=1, keep=9)
    loop.train(whole)
    cut = with_out("cut", save_every=1, keep=9, max_steps=3)
    loop.train(cut)
    (checkpoints.checkpoint_path(cut.out, 3) / "meta.json").unlink()
    resumed = replace(cut, resume=True, max_steps=4)
    loop.train(resumed)
    same_leaves(restored(resumed), restored(whole))
    assert [path.name for path in checkpoints.complete_checkpoints(cut.out)] == ["1", "2", "3", "4"]


def test_resume_of_a_run_killed_before_its_first_checkpoint(with_out, same_leaves):
    whole, killed = with_out("whole"), with_out("killed")
    loop.train(whole)
    loop.open_run(replace(killed, policy=with_action_dim(killed.policy, SPACES)))
    loop.train(replace(killed, resume=True))
    same_leaves(restored(killed), restored(whole))


@pytest.fixture
def fake_validation(monkeypatch):
    """Validation with results given by step; the calls it received."""
    calls = []

    def install(successes):
        class FakeValidation:
            def __init__(self, config, *, pictures, should_stop, on_warning):
                pass

            def __call__(self, policy, step):
                calls.append(step)
                if successes[step] is None:
                    return None
                return Validation(
                    {"success": successes[step], "n_success": 1, "n_episodes": 2, "n_error": 0, "return": 1.0}
                )

        monkeypatch.setattr(loop, "RolloutValidation", FakeValidation)
        return calls

    return install


def test_validation_chooses_the_best(config, fake_validation, capsys):
    calls = fake_validation({1: 0.2, 2: 0.8, 3: 0.5, 4: 0.5})
    config = replace(config, keep=1, validation=replace(config.validation, every=1, num_episodes=2))
    assert loop.train(config) == EXIT_OK
    assert calls == [1, 2, 3, 4]
    assert [path.name for path in checkpoints.complete_checkpoints(config.out)] == ["2", "4"]
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert f"best checkpoint {config.out / 'checkpoints' / '2'}: by validation at step 2" in last
    assert [m["validation/success"] for m in read_metrics(config.out) if "validation/success" in m] == [
        0.2, 0.8, 0.5, 0.5,
    ]  # fmt: skip


def test_an_interrupted_validation_is_made_up_for(config, fake_validation, monkeypatch):
    results = {2: None, 4: 0.5}
    calls = fake_validation(results)
    config = replace(config, max_steps=4, validation=replace(config.validation, every=2, num_episodes=2))

    def should_stop():
        """As after Ctrl-C during the validation of step 2."""
        return 2 in calls and results[2] is None

    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_on_interrupt", lambda: nullcontext(should_stop))
        assert loop.train(config) == EXIT_INTERRUPTED
    assert checkpoints.read_meta(checkpoints.newest_checkpoint(config.out)).validation is None
    results[2] = 0.7
    assert loop.train(replace(config, resume=True)) == EXIT_OK
    assert calls == [2, 2, 4]
    assert saved_state.best_checkpoint(config.out)[1].step == 2


def test_without_validation_the_newest_is_best_and_it_says_so(config, capsys):
    loop.train(config)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "best checkpoint" in last
    assert "the newest, step 4: there was no validation to choose by" in last
    assert "% of the time in the step" in last


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_and_resumes_exactly(with_out, same_leaves, monkeypatch, sent):
    whole, config = with_out("whole"), with_out("interrupted")
    loop.train(whole)
    show = trainer.Trainer._show

    def interrupt_after_three(self, state, step, clock):
        show(self, state, step, clock)
        if step == 3:
            signal.raise_signal(sent)

    monkeypatch.setattr(trainer.Trainer, "_show", interrupt_after_three)
    monkeypatch.setattr(trainer, "CALL_TIME", 0.0)
    handler = signal.getsignal(sent)
    assert loop.train(config) == EXIT_INTERRUPTED
    assert signal.getsignal(sent) is handler
    assert checkpoints.newest_checkpoint(config.out).name == "3"
    assert loop.train(replace(config, resume=True)) == EXIT_OK
    same_leaves(restored(config), restored(whole))


def test_second_interrupt_is_not_held_back():
    with loop.stop_on_interrupt() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_loss_that_is_not_finite_spares_the_checkpoints(config):
    config = replace(
        config, max_steps=40, save_every=1, keep=50, log_every=1,
        optimizer=replace(config.optimizer, learning_rate=1e30, warmup_steps=0, clip_norm=1e30),
    )  # fmt: skip
    with pytest.raises(UserError, match="loss is not finite at step"):
        loop.train(config)
    assert checkpoints.newest_checkpoint(config.out) is not None


def test_folders_that_are_refused(config, with_out, tmp_path):
    with pytest.raises(ArgumentError, match="holds no run to continue"):
        loop.train(replace(config, resume=True))
    loop.train(config)
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*")}
    with pytest.raises(ArgumentError, match="already holds a run"):
        loop.train(config)
    changed = replace(config.optimizer, beta1=0.8)
    with pytest.raises(ArgumentError, match=r"batch_size 4 -> 5.*optimizer.beta1 0.9 -> 0.8"):
        loop.train(replace(config, resume=True, batch_size=5, optimizer=changed))
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="is a file"):
        loop.train(with_out("file"))
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*")} == before


def test_demonstrations_that_are_refused(config, with_out, make_demonstration, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        loop.train(with_out("a", data=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="collect"):
        loop.train(with_out("a", data=tmp_path / "empty"))
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    write_episode(narrow, make_demonstration(0, env_state_dim=5))
    write_statistics(narrow)
    with pytest.raises(ArgumentError, match="scene state of 7 entries"):
        loop.train(with_out("a", data=narrow))
    others = tmp_path / "others"
    others.mkdir()
    write_episode(others, make_demonstration(0, task="insert"))
    write_statistics(others)
    with pytest.raises(ArgumentError, match="holds demonstrations of task 'insert', not of --task 'transfer'"):
        loop.train(with_out("a", data=others))
    joints = tmp_path / "joints"
    joints.mkdir()
    one = make_demonstration(0)
    write_episode(
        joints, replace(one, action=one.action[:, :14], state=one.state[:, :14], noise=one.noise[:, :14], spaces=None)
    )
    write_statistics(joints)
    message = "robot 'two_diana7' of task 'transfer' has actions of 16 and states of 16 entries, but .* have 14 and 14"
    with pytest.raises(ArgumentError, match=message):
        loop.train(with_out("a", data=joints))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    spaces = replace(one.spaces, name="three_hands", action=one.spaces.action[::-1])
    write_episode(foreign, replace(one, spaces=spaces))
    write_statistics(foreign)
    with pytest.raises(UserError, match=r"demonstration 0 in .* is of robot 'three_hands', .* of robot 'two_diana7'"):
        loop.train(with_out("a", data=foreign))
    with pytest.raises(ArgumentError, match="action_dim is 8"):
        loop.train(with_out("a", policy=replace(config.policy, action_dim=8)))
    with pytest.raises(ArgumentError, match="unknown task"):
        loop.train(with_out("a", task="juggling"))
    assert not (tmp_path / "a").exists()


def test_changed_demonstrations_are_refused_on_resume(config, make_demonstration, tmp_path):
    folder = tmp_path / "demos"
    folder.mkdir()
    write_episode(folder, make_demonstration(0))
    write_statistics(folder)
    config = replace(config, data=folder)
    loop.train(config)
    write_episode(folder, make_demonstration(1))
    write_statistics(folder)
    with pytest.raises(ArgumentError, match="are not those"):
        loop.train(replace(config, resume=True, max_steps=6))


def test_progress_speaks_plainly_without_a_terminal(monkeypatch):
    monkeypatch.setattr("imf_jax.terminal.LINE_INTERVAL", 0.0)
    console = Console(file=open(os.devnull, "w"), record=True, width=200)  # noqa: SIM115
    with progress.TrainingProgress(0, 100, console) as bar:
        bar.update(40, 0.5, 2.0)
    console.file.close()
    assert "train 40/100, loss 0.5000, 2.0 steps/s, time left 0:30" in console.export_text()


def test_a_killed_run_goes_on_exactly(with_out, same_leaves):
    whole = with_out("whole", max_steps=40, save_every=3)
    loop.train(whole)
    killed = replace(whole, out=with_out("killed").out)
    settings = json.dumps(to_dict(killed))
    program = f"""
import json
from imf_jax.config import TrainConfig, from_dict
from imf_jax.training.loop import train
train(from_dict(TrainConfig, json.loads({settings!r})))
"""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "PYTHONPATH": str(Path(loop.__file__).parents[2]),
    }
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while checkpoints.newest_checkpoint(killed.out) is None and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert int(checkpoints.newest_checkpoint(killed.out).name) < 40, "it was killed too late to show anything"
    loop.train(replace(killed, resume=True))
    same_leaves(restored(killed), restored(whole))
    assert [line["step"] for line in read_metrics(killed.out)] == [line["step"] for line in read_metrics(whole.out)]
    assert not list((killed.out / "checkpoints").glob(".*"))
