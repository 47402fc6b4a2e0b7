"""WebSocket server of a policy, in openpi's convention.

On connection the server sends its metadata. Each binary message of the client is an observation, answered by a map with
`actions`, float32 (N, action_dim). A text message of the server says what was wrong with the one before. What is no
message at all closes the connection, and so does a client that does not read its answers. Over HTTP the same port
answers /healthz and /metrics.
"""

import asyncio
import hmac
import logging
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import numpy as np
from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from imf_jax.client.protocol import ProtocolError, pack, unpack
from imf_jax.config import ServeConfig
from imf_jax.errors import ArgumentError, UserError, one_line
from imf_jax.serving.batching import Batcher
from imf_jax.serving.metrics import ServerMetrics
from imf_jax.serving.observations import ObservationError, Session
from imf_jax.serving.policy import ServedPolicy

SPARE_CONNECTIONS = 128
"""Connections beyond `max_connections` that are answered (health, metrics, refusals); more are dropped unanswered."""

OPEN_TIMEOUT_S = 10.0
PING_S = 20.0
"""Interval of pings, and time for their answer: a client that stops in the middle of a frame is gone after both."""

STOP_POLL_S = 0.1

INVALID_DATA, INTERNAL_ERROR = 1007, 1011
"""Codes of WebSocket for the reason of a closed connection."""


def listening_socket(host: str, port: int) -> socket.socket:
    """Bind the address of a server; it accepts no connection yet.

    Raises:
        ArgumentError: the address is in use, or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ArgumentError(
            f"--host {host} cannot be used ({error.strerror}); name an address of this machine"
        ) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise _address_error(host, port, error) from None
    return bound


class PolicyServer:
    """Server of one policy.

    Args:
        policy: plans.
        config: limits and timeouts.
        token: that clients must send; None for none.
        ping_s: interval of pings and time for their answer [s].
        open_timeout_s: time for the opening handshake [s].

    Attributes:
        metrics: measurements since the start.
    """

    def __init__(
        self,
        policy: ServedPolicy,
        config: ServeConfig,
        token: str | None = None,
        *,
        ping_s: float = PING_S,
        open_timeout_s: float = OPEN_TIMEOUT_S,
    ) -> None:
        self._policy, self._config, self._token = policy, config, token
        self._ping_s, self._open_timeout_s = ping_s, open_timeout_s
        self._metadata = pack(policy.metadata)
        self._row_users = [0] * config.plan_batch
        self._row_turns = [0] * config.plan_batch
        self.metrics = ServerMetrics()

    @property
    def max_message(self) -> int:
        """Size of the largest message [bytes]."""
        if self._config.max_message_mb is not None:
            return int(self._config.max_message_mb * 1e6)
        return 2 * self._policy.spec.largest_bytes + 2**16

    async def run(self, bound: socket.socket, should_stop: Callable[[], bool], on_ready: Callable[[], None]) -> None:
        """Compile the policy, then serve until asked to stop.

        Args:
            bound: made by `listening_socket`; closed at the end.
            should_stop: asked every tenth of a second.
            on_ready: called once connections are accepted.

        Raises:
            ArgumentError: another server began to listen at the address meanwhile.
        """
        quiet = logging.getLogger("imf_jax.serving.websocket")
        quiet.setLevel(logging.CRITICAL)  # strangers' broken handshakes are no news
        self._batcher = Batcher(
            self._policy.plan, self._config.plan_batch, 1e-3 * self._config.max_wait_ms, self.metrics
        )
        batching = asyncio.create_task(self._batcher.run())
        address = bound.getsockname()
        try:
            await self._batcher.in_thread(self._policy.warm_up)
            server = await serve(
                self._serve_client,
                sock=bound,
                process_request=self._answer_http,
                create_connection=_limited(self._config.max_connections + SPARE_CONNECTIONS),
                compression=None,
                max_size=self.max_message,
                max_queue=1,
                open_timeout=self._open_timeout_s,
                ping_interval=self._ping_s,
                ping_timeout=self._ping_s,
                close_timeout=1.0,
                server_header=None,
                logger=quiet,
            )
        except OSError as error:
            raise _address_error(address[0], address[1], error) from None
        else:
            async with server:
                on_ready()
                while not should_stop():
                    await asyncio.sleep(STOP_POLL_S)
        finally:
            bound.close()
            batching.cancel()

    def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no client, and refuse whom the server does not serve."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if not self._has_token(request):
            self.metrics.refused["token"] += 1
            return connection.respond(HTTPStatus.UNAUTHORIZED, "send the token of this server (Authorization)\n")
        if path == "/metrics":
            return connection.respond(HTTPStatus.OK, self.metrics.prometheus())
        if self.metrics.connections >= self._config.max_connections:
            self.metrics.refused["full"] += 1
            reason = f"the server is full: it serves {self._config.max_connections} clients at once\n"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        return None

    def _has_token(self, request: Request) -> bool:
        if self._token is None:
            return True
        sent = request.headers.get_all("Authorization")
        kind, _, token = (sent[0] if len(sent) == 1 else "").partition(" ")
        same = hmac.compare_digest(token.strip().encode(errors="surrogateescape"), self._token.encode())
        return same and kind.lower() in ("api-key", "bearer")

    async def _serve_client(self, connection: ServerConnection) -> None:
        # Again, because others may have connected between the request and here.
        if self.metrics.connections >= self._config.max_connections:
            self.metrics.refused["full"] += 1
            await connection.close(1013, "the server is full")
            return
        row = min(range(len(self._row_users)), key=lambda row: (self._row_users[row], row))
        session = Session(self._policy.spec, self._config.seed, self._row_turns[row] * len(self._row_users) + row)
        self._row_users[row] += 1
        self._row_turns[row] += 1
        self.metrics.connections += 1
        try:
            if await self._send(connection, self._metadata):
                while await self._answer(connection, session, await connection.recv()):
                    pass
        except ConnectionClosed:
            pass
        finally:
            self.metrics.connections -= 1
            self._row_users[row] -= 1

    async def _answer(self, connection: ServerConnection, session: Session, data: str | bytes) -> bool:
        """Answer a message; False if the connection is closed because of it."""
        began = time.perf_counter()
        try:
            if isinstance(data, str):
                raise ProtocolError("observations are binary messages, not text")
            request = session.request(unpack(data))
            chunk = await self._batcher.plan(request)
            if not np.isfinite(chunk).all():
                raise FloatingPointError("the plan is not finite")
        except ProtocolError as error:
            self.metrics.refused["message"] += 1
            await self._send(connection, str(error))
            await connection.close(INVALID_DATA, _reason(str(error)))
            return False
        except ObservationError as error:
            self.metrics.refused["observation"] += 1
            return await self._send(connection, str(error))
        except ConnectionClosed:
            raise
        except Exception as error:  # of the policy: the client is told, the server goes on
            self.metrics.refused["plan"] += 1
            return await self._send(connection, f"the plan failed: {one_line(error)}")
        infer_ms = 1e3 * (time.perf_counter() - began)
        sent = await self._send(connection, pack({"actions": chunk, "server_timing": {"infer_ms": infer_ms}}))
        self.metrics.latency_ms.add(1e3 * (time.perf_counter() - began))
        return sent

    async def _send(self, connection: ServerConnection, message: str | bytes) -> bool:
        """Send a message; False if the client does not receive it in time, which drops the client."""
        try:
            async with asyncio.timeout(self._config.send_timeout_s):
                await connection.send(message)
        except TimeoutError:
            self.metrics.refused["slow"] += 1
            connection.transport.abort()
            return False
        return True


def _limited(most: int) -> type[ServerConnection]:
    """Connections of which the server holds so many at most, whether their handshake is done or not."""
    held: set[ServerConnection] = set()

    class LimitedConnection(ServerConnection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            held.add(self)
            if len(held) > most:
                self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            held.discard(self)
            super().connection_lost(exc)

    return LimitedConnection


def _reason(text: str) -> str:
    """The reason of a closed connection, at most 123 bytes."""
    return text.encode()[:120].decode(errors="ignore")


def _address_error(host: str, port: int, error: OSError) -> UserError:
    return ArgumentError(
        f"cannot listen on {host}:{port} ({error.strerror}); stop what uses it, or name another --port"
    )


def run_server(server: PolicyServer, bound: socket.socket, **hooks: Any) -> None:
    """Run a server in an event loop of its own; see `PolicyServer.run`."""
    asyncio.run(server.run(bound, **hooks))
