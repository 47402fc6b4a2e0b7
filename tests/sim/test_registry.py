"""Tasks by name, by module, by file and by entry point; what is no task, or fails, is said in one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imf_jax.checkpoints import META, load_policy, read_meta, resolve_checkpoint
from imf_jax.errors import ArgumentError, UserError
from imf_jax.evaluation.evaluated_policy import trained_task
from imf_jax.files import read_json, write_json
from imf_jax.sim.experts.transfer import TransferExpert
from imf_jax.sim.tasks import get_expert, get_task, task_names
from imf_jax.sim.tasks.transfer import Transfer

OWN = """
from imf_jax.sim.tasks.transfer import Transfer

class Own(Transfer):
    name = "own"
    expert = None
"""


UNFINISHED = """
from imf_jax.sim.tasks import TableTask

class Own(TableTask):
    add_objects = sample = start = evaluate = lambda self, *given: None
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a Python file; its path."""

    def make(text: str = OWN, name: str = "own.py") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return make


def message(reference: Any, get: Callable[[str], Any] = get_task) -> str:
    with pytest.raises(ArgumentError) as told:
        get(str(reference))
    assert "\n" not in str(told.value)
    return str(told.value)


def test_names_of_the_package() -> None:
    assert "transfer" in task_names()
    assert isinstance(get_task("transfer"), Transfer)
    assert isinstance(get_expert("transfer"), TransferExpert)


def test_classes_that_can_be_imported(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(get_task("imf_jax.sim.tasks.transfer:Transfer"), Transfer)
    monkeypatch.syspath_prepend(write(name="my_tasks_of_a_test.py").parent)
    assert get_task("my_tasks_of_a_test:Own").name == "own"
    assert "my_tasks_of_a_test:Other cannot be loaded: AttributeError" in message("my_tasks_of_a_test:Other")
    assert "no_such_module_1:Own cannot be loaded: ModuleNotFoundError" in message("no_such_module_1:Own")


def test_files(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()
    assert get_task(str(path)).name == "own"
    assert get_task(f"{path}:Own").name == "own"
    monkeypatch.chdir(path.parent)
    assert get_task("own.py").name == "own"
    assert message(f"{path}:Other") == f"--task {path}:Other: {path} has no Other"
    assert message("nowhere/own.py") == "--task nowhere/own.py: there is no file nowhere/own.py"


def test_a_file_with_several_tasks_or_none(write: Callable[..., Path]) -> None:
    path = write(OWN + "\nclass Second(Own):\n    name = 'second'\n")
    assert f"{path} must define one task, it has Own, Second; name one: {path}:Name" in message(path)
    assert get_task(f"{path}:Second").name == "second"
    imported = write("from imf_jax.sim.tasks.transfer import Transfer\n", "imported.py")
    assert "it has none" in message(imported), "what it imports is not its own"


def test_entry_points(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, install_task: Any) -> None:
    monkeypatch.syspath_prepend(write(name="package_of_a_test.py").parent)
    install_task("own", "package_of_a_test:Own")
    assert "own" in task_names()
    assert get_task("own").name == "own"
    install_task("broken", "package_of_a_test:Missing")
    assert "--task broken cannot be loaded: AttributeError" in message("broken")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\nraise KeyError('lost')\n", "KeyError: 'lost' (line 2 of own.py)"),
        ("import no_such_module_2\n", "ModuleNotFoundError: No module named 'no_such_module_2' (line 1 of own.py)"),
        ("x = 1\ndef f(:\n", "SyntaxError: invalid syntax (own.py, line 2)"),
        (
            OWN + "    def __init__(self): self.none\n",
            "'Own' object has no attribute 'none' (line 7 of own.py)",
        ),
        ("from imf_jax.sim.tasks import Task\nclass Own(Task): name = 'own'\n", "must define one task, it has none"),
    ],
)
def test_a_file_that_fails_is_told_with_its_line(write: Callable[..., Path], text: str, said: str) -> None:
    path = write(text)
    told = message(path)
    assert told.startswith(f"--task {path}")
    assert said in told


def test_what_is_no_task(write: Callable[..., Path]) -> None:
    path = write("class Own: pass\nown = 3\n")
    for name in ("Own", "own"):
        assert "is not a task; let it be a class derived from imf_jax.sim.tasks.Task" in message(f"{path}:{name}")
    unfinished = write(UNFINISHED)
    told = message(unfinished)
    assert "own.py has no name, objects, stages, env_state_dim, max_steps; see imf_jax.sim.tasks.Task" in told
    told = message("juggle")
    assert told.startswith("unknown task 'juggle'; choose one of: ")
    assert "transfer" in told


def test_experts_that_are_missing_or_fail(write: Callable[..., Path]) -> None:
    path = write()
    assert (
        message(path, get_expert)
        == f"task '{path}' has no scripted expert; tasks with one: aloha-insertion, aloha-transfer, insert, transfer"
    )
    other = write(OWN.replace("None", '"no_such_module_3:Expert"'), "other.py")
    assert f"the expert of task '{other}' cannot be loaded: ModuleNotFoundError" in message(other, get_expert)


EVIL = """
from pathlib import Path
Path(__file__).with_suffix(".executed").touch()
"""


def test_what_a_checkpoint_names_is_not_executed(write: Callable[..., Path], write_run: Any, tmp_path: Path) -> None:
    """Checkpoints come from others: their task is loaded only if the user names it."""
    path = write(EVIL + OWN)
    checkpoint = resolve_checkpoint(write_run(tmp_path / "run"))
    meta = replace(read_meta(checkpoint), task=str(path))
    with pytest.raises(ArgumentError, match=f"trained on a task of its own, {path}; name it, .*: --task {path}"):
        trained_task(meta.task)
    file = checkpoint / META
    write_json(file, read_json(file) | {"task": str(path), "robot": None})
    with pytest.raises(UserError, match=f"does not describe its robot, and its task {path} is not known"):
        load_policy(checkpoint)
    assert not path.with_suffix(".executed").exists()


@pytest.mark.parametrize("name", task_names())
def test_every_pose_of_the_scene_state_has_a_name(name: str) -> None:
    """Else the probes of pre-training name them by number."""
    task = get_task(name)
    names = task.objects + task.other_poses
    assert len(set(names)) == len(names)
    assert task.env_state_dim == 7 * len(names)
