"""Policies of servers and functions in our scenes: records of the checkpoint itself; failures cost their episodes."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from point_world import PointBackend
from rollout_fixtures import TINY
from transfer_task import SPACES

from imf_jax.config import ExecutionConfig
from imf_jax.errors import ArgumentError
from imf_jax.evaluation.folder import read_records
from imf_jax.files import read_json
from imf_jax.rollout.compiled import CompiledRollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.outside_policy import FunctionPolicy, outside_planner
from imf_jax.rollout.remote_policy import RemotePolicy

REPOSITORY = Path(__file__).resolve().parents[2]


class Served:
    """`scripts/serve.py` in a process of its own."""

    def __init__(self, run: Path, *flags: str) -> None:
        command = [
            sys.executable,
            str(REPOSITORY / "scripts/serve.py"),
            "--checkpoint",
            str(run),
            "--port",
            "0",
            *flags,
        ]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("ready: "):
                break
        found = re.search(r"ws://\S+", "".join(self.lines))
        assert found, self.stop()
        self.address = found[0]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code and output."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, "".join(self.lines) + out, err


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def served(run_folder: Path) -> Iterator[Served]:
    server = Served(run_folder, "--plan-batch", "3")
    yield server
    if server.process.poll() is None:
        server.stop()


def plan_batch(*flags: object) -> tuple[object, ...]:
    return ("eval.py", "--episodes", 5, "--num-envs", 3, "--plan-batch", 3, *flags)


@pytest.mark.parametrize(
    "how",
    [
        (),
        ("--inference", "async", "--delay-steps", 3, "--replan-every", 5, "--blend-steps", 2),
        ("--perturb", "observation-noise=1", "action-noise=0.5", "--seed", 4),
    ],
)
def test_a_served_copy_gives_the_records_of_the_checkpoint_to_the_bit(
    script: Callable[..., Any], run_folder: Path, served: Served, how: tuple[object, ...]
) -> None:
    own = script(*plan_batch("--checkpoint", run_folder, *how, "--out", "own"))
    assert own.code == 0, own.err
    other = script(*plan_batch("--policy", served.address, *how, "--out", "served"))
    assert other.code == 0, other.err
    assert Path("own/episodes.jsonl").read_bytes() == Path("served/episodes.jsonl").read_bytes()
    manifest, before = read_json(Path("served/manifest.json")), read_json(Path("own/manifest.json"))
    assert manifest["served"]["address"] == served.address
    assert manifest["served"]["metadata"]["policy"] == "tiny, step 1"
    assert manifest["checkpoint"]["sha256"] == before["checkpoint"]["sha256"]
    assert manifest["policy"].startswith("tiny, step 1, served")
    assert "own" in script("report.py", "own", "served").out


@pytest.mark.parametrize(
    ("learned", "how"),
    [
        ({"delay_training": 4}, ("--delay-steps", 6)),
        ({"prefix_training": 4}, ("--delay-steps", 3, "--replan-every", 5, "--prefix")),
    ],
)
def test_a_served_copy_is_told_of_its_delay(
    script: Callable[..., Any], write_run: Callable[..., Path], learned: dict[str, int], how: tuple[object, ...]
) -> None:
    run = write_run(Path("late"), sizes=replace(TINY, **learned))  # type: ignore[arg-type]
    flags = "--inference", "async", *how
    own = script(*plan_batch("--checkpoint", run, *flags, "--out", "own"))
    assert own.code == 0, own.err
    server = Served(run, "--plan-batch", "3")
    try:
        other = script(*plan_batch("--policy", server.address, *flags, "--out", "served"))
    finally:
        server.stop()
    assert other.code == 0, other.err
    assert Path("own/episodes.jsonl").read_bytes() == Path("served/episodes.jsonl").read_bytes()
    if "--prefix" in how:  # what it is told matters
        untold = script(*plan_batch("--checkpoint", run, *flags[:-1], "--out", "untold"))
        assert untold.code == 0, untold.err
        assert Path("own/episodes.jsonl").read_bytes() != Path("untold/episodes.jsonl").read_bytes()


def test_a_served_policy_that_has_learned_no_prefix(script: Callable[..., Any], served: Served) -> None:
    flags = "--inference", "async", "--delay-steps", 2, "--prefix", "--out", "served"
    refused = script(*plan_batch("--policy", served.address, *flags))
    assert refused.code == 2
    assert "--prefix needs a policy trained for it" in refused.err


def test_the_server_stops_on_sigterm_and_says_what_it_served(run_folder: Path) -> None:
    from imf_jax.client import PolicyClient

    server = Served(run_folder)
    client = PolicyClient(server.address)
    assert client.metadata["task"] == "transfer"
    chunk = client.plan({"state": np.zeros(16), "env_state": np.zeros(7)})
    assert chunk.shape == (client.metadata["chunk_steps"], 16)
    port = server.address.rpartition(":")[2]
    second = subprocess.run(
        [sys.executable, REPOSITORY / "scripts/serve.py", "--checkpoint", run_folder, "--port", port],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])},
    )  # fmt: skip
    assert second.returncode == 2
    reason = f"cannot listen on 127.0.0.1:{port} (Address already in use); stop what uses it, or name another --port"
    assert second.stderr == f"error: {reason}\n"
    code, out, err = server.stop()
    assert (code, err) == (0, "")
    assert "1 plans; latency p50 <= " in out
    assert out.rstrip().endswith("stopped")
    client.close()


def test_a_server_that_dies_costs_episodes_and_resume_completes_them(
    script: Callable[..., Any], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records are those of a run without the accident, also from a server at another port."""
    whole = Served(run_folder, "--plan-batch", "3")
    plans, answer = [], RemotePolicy.answer

    def counted(self: Any, *arguments: Any) -> Any:
        plans.append(1)
        if len(plans) == 5:
            whole.stop(signal.SIGKILL)
        return answer(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RemotePolicy, "answer", counted)
        broken = script(*plan_batch("--policy", whole.address, "--out", "evaluation"))
    assert broken.code == 3, broken.err
    records = {record.episode: record for record in read_records(Path("evaluation"))[0]}
    assert len(records) == 5
    failed = [record for record in records.values() if record.status == "error"]
    assert 1 <= len(failed) < 5
    pattern = (
        r"the policy gave no plan: (cannot reach the policy server|the connection broke|no close frame).* \(plan \d\)"
    )
    assert all(re.match(pattern, record.error or "") for record in failed), [record.error for record in failed]

    again = Served(run_folder, "--plan-batch", "3")
    resumed = script(*plan_batch("--policy", again.address, "--out", "evaluation", "--resume"))
    assert resumed.code == 0, resumed.err
    assert f"{len(failed)} episodes whose policy gave no plan run again" in resumed.out
    own = script(*plan_batch("--policy", again.address, "--out", "own"))
    assert own.code == 0
    again.stop()

    def what(folder: str) -> list[Any]:
        found = sorted(read_records(Path(folder))[0], key=lambda record: record.episode)
        return [(record.episode, record.status, record.steps, record.return_, record.replans) for record in found]

    assert what("evaluation") == what("own")


# Servers of others: a stub that answers one of its observations as the test says.

ANSWERS = {
    "nan": "the answer holds actions that are not finite",
    "shape": r"actions of shape \(3, 16\) came where \(4, 16\) is needed",
    "text": "the server says: out of memory",
    "garbage": "the answer cannot be read: the message is no msgpack",
    "nothing": "the answer holds no `actions`",
    "late": r"no answer within 0\.5 s",
}


@pytest.fixture
def remote_planner(foreign_server: Callable[..., str]) -> Iterator[Callable[..., Any]]:
    policies = []

    def make(answer: str, at: int = 5, **execution: Any) -> Any:
        shapes = {"state": (16,), "env_state": (3,)}
        keys = {"state": "observation/state"}
        sizes = {"action_dim": 16, "shapes": shapes, "image_size": 4, "plan_batch": 4}
        policy = RemotePolicy(foreign_server(answer, at), **sizes, keys=keys, prompt="go", timeout_s=0.5)
        policies.append(policy)
        return outside_planner(policy, SPACES, policy.plan_batch, ExecutionConfig(**execution))

    yield make
    for policy in policies:
        policy.close()


def one_failed(records: list[EpisodeRecord], answer: str) -> None:
    assert sorted(record.status for record in records) == ["error", "timeout", "timeout"]
    (failed,) = [record for record in records if record.status == "error"]
    assert re.match(f"the policy gave no plan: {ANSWERS[answer]}.* \\(plan 0\\)", failed.error or ""), failed.error


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_that_are_none_cost_their_episode_only(
    roll: Any, chunk_backend: Any, remote_planner: Callable[..., Any], answer: str
) -> None:
    records = roll(chunk_backend, remote_planner(answer), episodes=range(3), num_envs=3)
    one_failed(list(records.values()), answer)


def test_also_where_plans_come_late(roll: Any, chunk_backend: Any, remote_planner: Callable[..., Any]) -> None:
    planner = remote_planner("nan", inference="async", delay_steps=2, replan_every=2)
    one_failed(list(roll(chunk_backend, planner, episodes=range(3), num_envs=3).values()), "nan")


def test_also_in_the_compiled_loop(remote_planner: Callable[..., Any]) -> None:
    """Its warm-up makes two plans of each episode."""
    records: list[EpisodeRecord] = []
    how = {"seed": 0, "max_steps": 8, "num_envs": 3, "on_record": records.append}
    CompiledRollout(PointBackend(), remote_planner("text", at=8), range(3), **how).run()
    one_failed(records, "text")


def test_a_server_of_others_in_the_script(script: Callable[..., Any], foreign_server: Callable[..., str]) -> None:
    address = foreign_server("late")
    done = script(
        "eval.py", "--policy", address, "--episodes", 3, "--num-envs", 3, "--policy-timeout-s", 0.5, "--out", "out",
        "--policy-prompt", "go", "--policy-keys", "state=observation/state",
    )  # fmt: skip
    assert done.code == 3, done.err
    one_failed(read_records(Path("out"))[0], "late")
    assert read_json(Path("out/manifest.json"))["served"] == {"address": address, "metadata": {"name": "foreign"}}


@pytest.fixture
def foreign_server() -> Iterator[Callable[..., str]]:
    """A server that speaks openpi's convention and answers observation number `at` as the test says."""
    import threading
    import time

    from websockets.sync.server import serve

    from imf_jax.client.protocol import pack, unpack

    servers = []

    def start(wrong: str, at: int = 5) -> str:
        count, lock = [0], threading.Lock()
        actions = np.tile(np.array([0.4, 0.2, 0.3, 0, 1, 0, 0, 0.02] * 2, np.float32), (4, 1))
        answers: dict[str, Any] = {
            "nan": pack({"actions": actions * np.float32(np.nan)}),
            "shape": pack({"actions": actions[:3]}),
            "text": "Traceback:\n  somewhere\nout of memory",
            "garbage": b"\xc1\xc1",
            "nothing": pack({"action": actions}),
        }

        def handle(connection: Any) -> None:
            connection.send(pack({"name": "foreign"}))
            for data in connection:
                message = unpack(data)
                assert set(message) == {"observation/state", "prompt"}
                assert message["observation/state"].shape == (16,)
                with lock:
                    count[0] += 1
                    number = count[0]
                if number == at and wrong == "late":
                    time.sleep(0.8)
                connection.send(answers[wrong] if number == at and wrong in answers else pack({"actions": actions}))

        server = serve(handle, "127.0.0.1", 0, compression=None)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"ws://127.0.0.1:{server.socket.getsockname()[1]}"

    yield start
    for server in servers:
        server.shutdown()


FUNCTION = """
import numpy as np

def stay(observations):
    assert observations["state"].shape[1:] == (1, 16)
    actions = np.zeros((len(observations["state"]), 3, 16), np.float32)
    actions[..., [3, 11]] = 1
    return actions

calls = []

def fails(observations):
    calls.append(1)
    if len(calls) == 3:
        raise KeyError("weights")
    return stay(observations)

def wide(observations):
    return np.zeros((1, 3, 17))

number = 7
"""


def test_a_function_is_a_policy(script: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("mine_for_a_test.py").write_text(FUNCTION)
    done = script("eval.py", "--policy", "mine_for_a_test:stay", "--episodes", 2, "--out", "out")
    assert done.code == 0, done.err
    assert [record.status for record in read_records(Path("out"))[0]] == ["timeout"] * 2
    assert read_records(Path("out"))[0][0].replans == 7
    manifest = read_json(Path("out/manifest.json"))
    assert (manifest["policy"], manifest["served"]["address"]) == ("mine_for_a_test:stay", "mine_for_a_test:stay")

    late = ("--inference", "async", "--delay-steps", 1, "--replan-every", 2)
    assert script("eval.py", "--policy", "mine_for_a_test:stay", "--episodes", 2, *late, "--out", "late").code == 0
    assert read_records(Path("late"))[0][0].replans == 10

    failing = script("eval.py", "--policy", "mine_for_a_test:fails", "--episodes", 2, "--out", "failing")
    assert failing.code == 3
    errors = [record.error for record in read_records(Path("failing"))[0]]
    assert errors == ["the policy gave no plan: KeyError: 'weights' (plan 0)"] * 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--policy", "mine_for_a_test:wide"), "returns shape (1, 3, 17) for one scene; let it be (1, steps, 16)"),
        (("--policy", "mine_for_a_test:number"), "mine_for_a_test:number is no function"),
        (("--policy", "mine_for_a_test:none"), "mine_for_a_test:none cannot be imported: AttributeError"),
        (("--policy", "nowhere_at_all:f"), "nowhere_at_all:f cannot be imported: ModuleNotFoundError"),
        (("--policy", "mine"), "--policy mine must be ws://HOST:PORT or package.module:function"),
        (("--policy", "ws://127.0.0.1:9"), "cannot reach the policy server ws://127.0.0.1:9"),
        (("--policy", "ws://x", "--expert"), "say what to evaluate"),
        (("--policy", "ws://x", "--sampling-steps", "2"), "--sampling-steps is for --checkpoint"),
        (("--policy", "ws://x", "--policy-keys", "state"), "--policy-keys state must be NAME=KEY"),
        (("--policy", "m:f", "--policy-prompt", "go"), "--policy-prompt would do nothing without --policy ws://"),
        (("--policy", "mine_for_a_test:stay", "--replan-every", "4"), "--replan-every 4 is more actions than a chunk"),
        (("--policy", "ws://x", "--policy-token-file", "none"), "--policy-token-file none cannot be read"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    script: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], message: str
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("mine_for_a_test.py").write_text(FUNCTION)
    done = script("eval.py", *flags, "--episodes", 1, "--out", "out")
    assert done.code in (1, 2)
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not Path("out").exists()


def test_a_function_that_does_not_say_its_dimensions() -> None:
    with pytest.raises(ArgumentError, match="let it be"):
        FunctionPolicy(lambda seen: np.zeros(16), 16, 16, 7, 32)
    one = FunctionPolicy(lambda seen: np.zeros((len(seen["state"]), 16)), 16, 16, 7, 32)
    assert (one.chunk_steps, one.obs_horizon, one.cameras) == (1, 1, ())
