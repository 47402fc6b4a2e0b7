"""Settings of a policy server."""

from dataclasses import dataclass
from pathlib import Path

from imf_jax.config.base import PlanPrecision, require, require_counts, require_seed
from imf_jax.config.policy import EncoderDtype


@dataclass(frozen=True)
class ServeConfig:
    """A server that plans for robots and evaluations over WebSocket, in openpi's convention."""

    # Checkpoint folder, or run folder, of which the newest complete checkpoint is taken.
    checkpoint: Path
    # Address that it listens on; this machine only by default. 0.0.0.0 is every network that the machine is in.
    host: str = "127.0.0.1"
    # Port that it listens on.
    port: int = 8000
    # File that holds the token that clients must send; by default that of the variable IMF_SERVE_TOKEN, if it is set.
    token_file: Path | None = None
    # Observations planned in one call, of as many clients at most. Evaluations have the same records with the same
    # number here and as their --plan-batch; a single robot is served fastest with 1.
    plan_batch: int = 10
    # Longest time that an observation waits for those of other clients [ms].
    max_wait_ms: float = 2.0
    # Clients served at once; others are refused with the reason.
    max_connections: int = 64
    # Size of the largest message [MB]; by default twice what the observations of the policy take as float64.
    max_message_mb: float | None = None
    # Time that a client has to receive an answer [s]; then its connection is closed.
    send_timeout_s: float = 10.0
    # Seed of the planning noise of clients that send none.
    seed: int = 0
    # Function evaluations per plan; by default as in training.
    sampling_steps: int | None = None
    # Precision of the policy's matrix products, see scripts/eval.py.
    precision: PlanPrecision = "highest"
    # Operands of the frozen LEWM encoder's matrix products; by default as in training.
    encoder_dtype: EncoderDtype | None = None

    def __post_init__(self) -> None:
        require_counts(self, "plan_batch", "max_connections", "sampling_steps")
        require_seed(self.seed)
        require(0 <= self.port <= 65535, f"--port {self.port} must be in 0..65535; 0 takes a free one")
        require(self.max_wait_ms >= 0, f"--max-wait-ms {self.max_wait_ms:g} must not be negative")
        require(self.send_timeout_s > 0, f"--send-timeout-s {self.send_timeout_s:g} must be positive")
        require(
            self.max_message_mb is None or self.max_message_mb > 0,
            f"--max-message-mb {self.max_message_mb} must be positive",
        )
