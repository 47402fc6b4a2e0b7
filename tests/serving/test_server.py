"""The server and its client: what is answered, batched, refused, and outlived."""

import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from conftest import SPEC, Running, chunks
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from imf_jax.client import PolicyClient, PolicyServerError
from imf_jax.client.protocol import pack, unpack
from imf_jax.config import ServeConfig
from imf_jax.errors import ArgumentError
from imf_jax.serving.observations import PlanRequest
from imf_jax.serving.server import listening_socket
from imf_jax.token_file import read_token

Start = Callable[..., Running]


def seen(state: float, **keys: Any) -> dict[str, Any]:
    return {"state": np.full(3, state), "env_state": np.zeros(2), **keys}


def http(running: Running, path: str, **headers: str) -> tuple[int, str]:
    try:
        with urlopen(Request(f"http://127.0.0.1:{running.port}{path}", headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def answers(running: Running) -> None:
    """The server serves others on."""
    client = PolicyClient(running.address, timeout_s=10)
    assert client.plan(seen(5.0))[0, 0] == 5
    client.close()


def test_a_client_gets_metadata_and_chunks_of_its_own_history_and_keys(start_server: Start) -> None:
    running = start_server(seed=11)
    first, second = PolicyClient(running.address), PolicyClient(running.address)
    assert first.metadata == {"protocol": "imf_jax", "policy": "stub"}
    assert first.plan(seen(1.0))[:3].tolist() == [[1, 1, 1], [11, 0, 0], [1, 1, 1]]
    assert second.plan(seen(2.0))[:3].tolist() == [[2, 2, 2], [11, 1, 0], [2, 2, 2]]
    assert first.plan(seen(3.0))[:3].tolist() == [[3, 3, 3], [11, 0, 1], [1, 1, 1]]
    assert second.plan(seen(4.0, seed=2, episode=25, replan=6))[1].tolist() == [2, 25, 6]
    first.close()
    third = PolicyClient(running.address)
    assert third.plan(seen(1.0))[1].tolist() == [11, 10, 0], "the free row, and no noise twice"
    for client in (second, third):
        client.close()


def test_health_and_metrics(start_server: Start) -> None:
    running = start_server()
    client = PolicyClient(running.address)
    client.plan(seen(1.0))
    with pytest.raises(PolicyServerError, match="state has shape"):
        client.plan({**seen(1.0), "state": np.zeros(9)})
    assert http(running, "/healthz") == (200, "OK\n")
    client = PolicyClient(running.address)
    code, text = http(running, "/metrics")
    assert code == 200
    assert 'imf_serve_latency_seconds_bucket{le="+Inf"} 1\n' in text
    assert "imf_serve_latency_seconds_count 1\n" in text
    assert 'imf_serve_batch_size_bucket{le="1"} 1\n' in text
    assert 'imf_serve_refused_total{reason="observation"} 1\n' in text
    assert "imf_serve_connections 1\n" in text
    client.close()


def test_a_token_is_asked_for(start_server: Start) -> None:
    running = start_server(token="secret")
    for token in (None, "other", "secre", "secrett"):
        with pytest.raises(PolicyServerError, match="send the token of this server"):
            PolicyClient(running.address, token=token)
    assert http(running, "/metrics")[0] == 401
    assert http(running, "/healthz")[0] == 200
    assert http(running, "/metrics", Authorization="Bearer s\xf6cret")[0] == 401
    assert running.server.metrics.refused["token"] == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ("two words", "cannot be sent"), ("söcret", "cannot be sent"), (None, "cannot be read")],
)
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArgumentError, match=message):
        read_token(path, "--token-file")
    path.write_text(" secret\n")
    assert read_token(path, "--token-file") == "secret"


def test_the_right_token_is_let_in(start_server: Start) -> None:
    running = start_server(token="secret")
    client = PolicyClient(running.address, token="secret")
    assert client.plan(seen(1.0))[0, 0] == 1
    client.close()
    assert http(running, "/metrics", Authorization="Bearer secret")[0] == 200
    assert http(running, "/metrics", Authorization="Basic secret")[0] == 401


def test_clients_that_come_together_are_planned_together(start_server: Start) -> None:
    sizes: list[int] = []
    rows: list[list[int]] = []

    def slow(requests: list[PlanRequest]) -> np.ndarray:
        sizes.append(len(requests))
        rows.append([request.episode % 4 for request in requests])
        time.sleep(0.02)
        return chunks(requests)

    running = start_server(slow, plan_batch=4, max_wait_ms=500.0)
    clients = [PolicyClient(running.address) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for round_number in range(3):
            plans = list(threads.map(lambda pair: pair[1].plan(seen(float(pair[0]))), enumerate(clients)))
            assert [plan[0, 0] for plan in plans] == list(range(8))
            assert [plan[1].tolist() for plan in plans] == [[0, number, round_number] for number in range(8)]
    assert sizes == [4] * 6
    assert all(len(set(used)) == len(used) for used in rows), "each in a row of its own"
    for client in clients:
        client.close()


def test_requests_of_other_seeds_wait_for_their_own_call(start_server: Start) -> None:
    calls: list[set[int]] = []

    def plan(requests: list[PlanRequest]) -> np.ndarray:
        calls.append({request.seed for request in requests})
        time.sleep(0.02)
        return chunks(requests)

    running = start_server(plan, max_wait_ms=100.0)
    clients = [PolicyClient(running.address) for _ in range(6)]
    with ThreadPoolExecutor(6) as threads:
        plans = list(threads.map(lambda pair: pair[1].plan(seen(1.0, seed=pair[0] % 2)), enumerate(clients)))
    assert [plan[1, 0] for plan in plans] == [0, 1] * 3
    assert all(len(seeds) == 1 for seeds in calls)
    for client in clients:
        client.close()


def test_a_policy_that_fails_fails_its_clients_only(start_server: Start) -> None:
    def plan(requests: list[PlanRequest]) -> np.ndarray:
        if requests[0].seed == 1:
            raise RuntimeError("out of memory\nat 0x7f00")
        planned = chunks(requests)
        return planned * (np.nan if requests[0].seed == 2 else 1)

    running = start_server(plan)
    with connect(running.address, proxy=None) as connection:
        connection.recv()
        for seed, text in ((1, "the plan failed: out of memory"), (2, "the plan failed: the plan is not finite")):
            connection.send(pack(seen(1.0, seed=seed)))
            assert connection.recv().startswith(text)
        connection.send(pack(seen(1.0, seed=0)))
        assert unpack(connection.recv())["actions"].shape == (4, 3), "the connection is still good"
    answers(running)


def raw_client(running: Running) -> socket.socket:
    """A client that never answers a ping and has next to no room for answers."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", running.port))
    client.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    deadline = time.monotonic() + 10
    while not running.server.metrics.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running.server.metrics.connections
    return client


# Hostile peers: the connection is closed with the reason, and others are served on.


@pytest.mark.parametrize(
    ("data", "reason"),
    [("hello", "observations are binary messages"), (b"\xc1", "the message is no msgpack"), (b"", "no msgpack")],
)
def test_what_is_no_message_closes_the_connection_with_the_reason(start_server: Start, data: Any, reason: str) -> None:
    running = start_server()
    with connect(running.address, proxy=None) as connection:
        connection.recv()
        connection.send(data)
        assert reason in connection.recv()
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007
    assert reason in closed.value.rcvd.reason
    answers(running)


def test_a_message_of_a_gigabyte_is_not_received(start_server: Start) -> None:
    running = start_server()
    most = running.server.max_message
    assert most < 100_000
    with connect(running.address, proxy=None) as connection:
        connection.recv()
        # The head of a binary frame of 1 GB, masked; then what of it the server takes.
        connection.socket.sendall(b"\x82\xff" + struct.pack("!Q", 10**9) + b"\0\0\0\0" + bytes(most))
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    with connect(running.address, proxy=None) as connection:
        connection.recv()
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012
            connection.send(bytes(1000) for _ in range(most // 500))  # in fragments
            connection.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    answers(running)


def test_half_a_frame_holds_the_connection_for_a_while_only(start_server: Start) -> None:
    running = start_server(ping_s=0.2)
    with raw_client(running) as client:
        client.sendall(b"\x82\xfe" + struct.pack("!H", 1000) + b"\0\0\0\0" + b"half")
        deadline = time.monotonic() + 10
        while running.server.metrics.connections and time.monotonic() < deadline:
            time.sleep(0.05)
    assert running.server.metrics.connections == 0
    answers(running)


def test_half_a_handshake_is_not_waited_for(start_server: Start) -> None:
    running = start_server(open_timeout_s=0.3)
    with socket.create_connection(("127.0.0.1", running.port)) as half:
        half.sendall(b"GET / HTTP/1.1\r\nHost:")
        half.settimeout(10)
        assert half.recv(100) == b""
    answers(running)


def test_a_client_that_never_reads_is_dropped(start_server: Start) -> None:
    def big(requests: list[PlanRequest]) -> np.ndarray:
        return np.zeros((len(requests), 400_000, 3), np.float32)

    running = start_server(big, send_timeout_s=0.3)
    with raw_client(running) as client:
        data = pack(seen(1.0))
        frame = b"\x82\xfe" + struct.pack("!H", len(data)) + b"\0\0\0\0" + data
        client.sendall(frame * 3)
        deadline = time.monotonic() + 10
        while not running.server.metrics.refused["slow"] and time.monotonic() < deadline:
            time.sleep(0.05)
    assert running.server.metrics.refused["slow"] == 1


def test_clients_beyond_the_limit_are_refused_and_those_within_served_on(start_server: Start) -> None:
    running = start_server(max_connections=2)
    clients = [PolicyClient(running.address) for _ in range(2)]
    with pytest.raises(PolicyServerError, match="the server is full: it serves 2 clients at once"):
        PolicyClient(running.address)
    assert http(running, "/healthz")[0] == 200
    assert clients[0].plan(seen(1.0))[0, 0] == 1
    clients[1].close()
    deadline = time.monotonic() + 10
    while running.server.metrics.connections > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    answers(running)
    clients[0].close()


def test_a_thousand_connections_are_answered_or_dropped(start_server: Start) -> None:
    """None of them says anything; clients that were there before are served on meanwhile."""
    running = start_server(max_connections=4)
    client = PolicyClient(running.address)
    idle = []
    try:
        for _ in range(400):
            idle.append(socket.create_connection(("127.0.0.1", running.port)))
        assert client.plan(seen(3.0))[0, 0] == 3
        held = 0
        for one in idle:
            one.settimeout(0.001)
            try:
                held += one.recv(1) != b""
            except TimeoutError:
                held += 1
            except OSError:
                pass
        assert held <= 4 + 128
    finally:
        for one in idle:
            one.close()
    assert client.plan(seen(4.0))[0, 0] == 4
    client.close()


def test_two_servers_on_one_port(start_server: Start) -> None:
    running = start_server()
    with pytest.raises(ArgumentError, match=r"Address already in use\); stop what uses it, or name another --port"):
        listening_socket("127.0.0.1", running.port)
    with pytest.raises(ArgumentError, match=r"--host nowhere\.invalid cannot be used"):
        listening_socket("nowhere.invalid", 0)
    answers(running)


def test_a_server_that_stops_says_so_to_its_clients(start_server: Start) -> None:
    running = start_server()
    with connect(running.address, proxy=None) as connection:
        connection.recv()
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=10)
        stopping.join()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    with pytest.raises(PolicyServerError, match="cannot reach the policy server"):
        PolicyClient(running.address, timeout_s=1)


def test_a_client_finds_a_server_that_was_started_again(start_server: Start) -> None:
    first = start_server()
    client = PolicyClient(first.address, timeout_s=5)
    first.stop()
    with pytest.raises(PolicyServerError, match="the connection broke"):
        client.plan(seen(1.0))
    with pytest.raises(PolicyServerError, match="cannot reach"):
        client.plan(seen(1.0))
    again = start_server(port=first.port)
    assert client.plan(seen(6.0))[0, 0] == 6
    client.close()
    again.stop()


def test_a_late_answer_is_an_error_and_not_taken_for_the_next(start_server: Start) -> None:
    def plan(requests: list[PlanRequest]) -> np.ndarray:
        time.sleep(0.6 if requests[0].seed else 0)
        return chunks(requests)

    running = start_server(plan)
    client = PolicyClient(running.address, timeout_s=0.3)
    with pytest.raises(PolicyServerError, match=r"no answer within 0\.3 s"):
        client.plan(seen(1.0, seed=1))
    time.sleep(0.5)
    assert client.plan(seen(2.0, seed=0))[0, 0] == 2
    client.close()


def test_settings_that_cannot_work_are_refused() -> None:
    for changes, message in (
        ({"port": 70000}, "--port 70000 must be in"),
        ({"plan_batch": 0}, "--plan-batch is 0"),
        ({"max_wait_ms": -1.0}, "--max-wait-ms -1 must not"),
        ({"send_timeout_s": 0.0}, "--send-timeout-s 0 must be positive"),
        ({"max_message_mb": 0.0}, "--max-message-mb 0"),
    ):
        with pytest.raises(ArgumentError, match=message):
            ServeConfig("run", **changes)  # type: ignore[arg-type]


def test_the_largest_message_follows_from_the_policy(start_server: Start) -> None:
    assert start_server().server.max_message == 2 * SPEC.largest_bytes + 2**16
    assert start_server(max_message_mb=3.0).server.max_message == 3_000_000
