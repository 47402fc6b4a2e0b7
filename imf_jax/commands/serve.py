"""Serve a policy to robots and evaluations. Example: python scripts/serve.py --checkpoint runs/transfer --port 8000"""

from typing import TYPE_CHECKING, NoReturn

import tyro

from imf_jax.cli import print_note, run_main
from imf_jax.config import ServeConfig
from imf_jax.errors import UserError
from imf_jax.interrupts import stop_on_interrupt
from imf_jax.jax_settings import set_precision
from imf_jax.terminal import make_console, make_table
from imf_jax.token_file import read_token

if TYPE_CHECKING:
    from imf_jax.serving.metrics import ServerMetrics

LOOPBACK = ("127.0.0.1", "::1", "localhost")

console = make_console()


def main() -> None:
    """Parse the command line and serve until Ctrl-C or SIGTERM."""
    config = tyro.cli(ServeConfig, description=__doc__)
    serve(config)


def serve(config: ServeConfig) -> None:
    """Serve the policy that the flags name.

    Raises:
        UserError, ArgumentError: its packages are missing, the port is in use, or the policy cannot be loaded.
    """
    token = read_token(config.token_file, "--token-file")
    try:
        # Imported late, so that help and mistyped flags are answered without waiting for JAX to load.
        from imf_jax.serving.server import PolicyServer, listening_socket, run_server
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] not in ("websockets", "msgpack"):
            raise
        from imf_jax.client.connection import EXTRA

        raise UserError(EXTRA) from None
    bound = listening_socket(config.host, config.port)
    host, port = bound.getsockname()[:2]
    if config.host not in LOOPBACK and token is None:
        print_note(f"everyone who reaches {config.host} can use this policy; a token keeps them out: --token-file FILE")
    set_precision(config.precision)
    with stop_on_interrupt() as should_stop:
        from imf_jax.serving.policy import load_served

        policy = load_served(config)
        console.print(f"{policy.metadata['policy']}: compiling for batches of {config.plan_batch} ...", style="dim")
        server = PolicyServer(policy, config, token)
        address = f"ws://{f'[{host}]' if ':' in host else host}:{port}"
        run_server(
            server,
            bound,
            should_stop=should_stop,
            on_ready=lambda: console.print(f"ready: {address} (stop with Ctrl-C)", style="bold"),
        )
    say_metrics(server.metrics)


def say_metrics(metrics: "ServerMetrics") -> None:
    """Print what was served: latencies as a histogram, batches, refusals."""
    latency = metrics.latency_ms
    if latency.count:
        console.print(make_table(("latency", "plans"), metrics.table(), left=1))
        console.print(
            f"{latency.count:,} plans; latency p50 <= {latency.quantile(0.5):g} ms, p95 <= {latency.quantile(0.95):g} "
            f"ms, largest {latency.largest:.3g} ms; {metrics.batch.sum / metrics.batch.count:.1f} observations per call"
        )
    refused = ", ".join(f"{reason} {count}" for reason, count in sorted(metrics.refused.items()))
    console.print(f"stopped{f'; refused: {refused}' if refused else ''}")


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)


if __name__ == "__main__":  # benchmarks start `python -m imf_jax.commands.serve`
    run()
