"""Connection to a policy server that speaks openpi's convention, such as `scripts/serve.py`."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from imf_jax.client.protocol import ProtocolError, pack, unpack
from imf_jax.errors import UserError, one_line

MAX_ANSWER = 64 * 2**20
"""Size of the largest answer that is read [bytes]."""

EXTRA = "the packages of policy servers are missing; install them: pip install 'imf_jax[serve]'"


class PolicyServerError(UserError):
    """A policy server that cannot be reached, or does not answer as it should."""


class PolicyClient:
    """Connection to a policy server, of one thread at a time.

    A failure closes the connection, so that a late answer is never taken for another's; the next call opens a new one.

    Args:
        address: ws://HOST:PORT.
        token: of the server, if it asks for one.
        timeout_s: time for a connection, and for each answer [s].

    Attributes:
        address: as given.
        metadata: the server's, sent at the first connection.

    Raises:
        UserError: the extra `serve` is not installed.
        PolicyServerError: the server cannot be reached, or is none.
    """

    def __init__(self, address: str, *, token: str | None = None, timeout_s: float = 30.0) -> None:
        self.address, self._token, self._timeout_s = address, token, timeout_s
        self._open = ExitStack()
        self._connection: Any = None
        self.metadata: dict[str, Any] = self._connect()

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Send an observation and return the answer, in which `actions` is a chunk.

        Raises:
            PolicyServerError: there is no answer in time, or it is none; says why.
        """
        from websockets.exceptions import WebSocketException

        answered = False
        try:
            if self._connection is None:
                self._connect()
            self._connection.send(pack(dict(observation)))
            answer = self._read()
            answered = True
        except TimeoutError:
            raise PolicyServerError(f"no answer within {self._timeout_s:g} s") from None
        except (OSError, WebSocketException) as error:
            raise PolicyServerError(f"the connection broke ({one_line(error)})") from None
        finally:
            if not answered:
                self.close()
        return answer

    def plan(self, observation: Mapping[str, Any]) -> np.ndarray:
        """Actions that a policy plans, float32 (N, A); the first one is for the time of the observation.

        Raises:
            PolicyServerError: there is no answer in time, or it holds no finite actions of that form; says why.
        """
        actions = self.infer(observation).get("actions")
        if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "iuf" or actions.ndim != 2:
            shape = getattr(actions, "shape", None)
            raise PolicyServerError(f"the answer holds no `actions` of N steps x A numbers (shape {shape})")
        with np.errstate(over="ignore"):
            actions = actions.astype(np.float32)
        if not np.isfinite(actions).all():
            raise PolicyServerError("the answer holds actions that are not finite")
        return actions

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        self._connection = None
        self._open.close()

    def _connect(self) -> dict[str, Any]:
        try:
            from websockets.exceptions import InvalidStatus, WebSocketException
            from websockets.sync.client import connect
        except ImportError:
            raise UserError(EXTRA) from None
        headers = {"Authorization": f"Api-Key {self._token}"} if self._token else None
        try:
            self._connection = self._open.enter_context(
                connect(
                    self.address,
                    additional_headers=headers,
                    compression=None,
                    open_timeout=self._timeout_s,
                    close_timeout=1.0,
                    max_size=MAX_ANSWER,
                    proxy=None,
                )
            )
            metadata = self._read()
        except InvalidStatus as error:
            said = bytes(error.response.body or b"").decode(errors="replace").strip()
            raise PolicyServerError(f"{self.address} refuses: {said or error}") from None
        except (OSError, ValueError, WebSocketException) as error:
            self.close()
            raise PolicyServerError(f"cannot reach the policy server {self.address} ({one_line(error)})") from None
        except PolicyServerError:
            self.close()
            raise
        return metadata

    def _read(self) -> dict[str, Any]:
        """The next message of the server, a map."""
        data = self._connection.recv(timeout=self._timeout_s)
        if isinstance(data, str):  # openpi's servers say so what went wrong
            raise PolicyServerError(f"the server says: {data.strip().splitlines()[-1] if data.strip() else 'nothing'}")
        try:
            answer = unpack(data)
        except ProtocolError as error:
            raise PolicyServerError(f"the answer cannot be read: {error}") from None
        if not isinstance(answer, dict):
            raise PolicyServerError("the answer is no map of names")
        return answer
