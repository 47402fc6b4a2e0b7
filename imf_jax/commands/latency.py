"""Success against the delay of plans. Example: python scripts/latency.py --checkpoint runs/transfer --delays 0 2 4 8"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import tyro

from imf_jax.cli import run_main
from imf_jax.config import LatencyConfig, to_dict
from imf_jax.errors import EXIT_INTERRUPTED
from imf_jax.files import new_folders, write_bytes, write_json
from imf_jax.interrupts import stop_on_interrupt
from imf_jax.jax_settings import set_precision
from imf_jax.terminal import make_console

console = make_console()


def main() -> int:
    """Parse the command line and run the sweep."""
    config = tyro.cli(LatencyConfig, description=__doc__)
    set_precision(config.precision)
    # Imported late, so that help and mistyped flags are answered without waiting for the simulator to load.
    from imf_jax.evaluation.folder import require_empty

    if config.out is not None and not config.resume:
        require_empty(config.out)
    # Imported late, so that help and mistyped flags are answered without waiting for the simulator to load.
    from imf_jax.checkpoints import read_config, resolve_checkpoint
    from imf_jax.evaluation.evaluate import EvaluationSettings, Hooks, evaluate
    from imf_jax.evaluation.evaluated_policy import load_evaluated_policy
    from imf_jax.evaluation.latency import (
        JSON,
        PLOT,
        SCHEMA_VERSION,
        delay_folder,
        require_sweep,
        sweep_delays,
        sweep_plot,
        sweep_rows,
        sweep_table,
    )
    from imf_jax.evaluation.setup import assemble
    from imf_jax.plots import require_matplotlib

    path = resolve_checkpoint(config.checkpoint)
    delays = sweep_delays(config, read_config(path).policy)
    if config.plot:
        require_matplotlib("leave the plot out with --no-plot")
    if config.resume and config.out is not None:
        require_sweep(config.out, delays)
    first = assemble(config.evaluation(delays[0]))
    console.print(f"checkpoint {path}, backend {first.backend.name}", style="dim")
    config = replace(config, capture=config.capture.with_default(first.backend.task.picture_camera))
    settings = EvaluationSettings(config.episodes, config.num_envs, seed=config.seed, capture=config.capture)
    results: dict[int, Any] = {}
    codes = set()
    with stop_on_interrupt() as should_stop, ExitStack() as stack:
        out = config.out
        if out is None:
            name = f"latency_{path.resolve().parent.parent.name}_seed{config.seed}"
            (out,) = stack.enter_context(new_folders(Path("evals"), [name]))
        hooks = Hooks(should_stop, lambda line: console.print(line, style="dim"), show_progress=True)
        for delay in delays:
            summary = evaluate(
                replace(first, policy=load_evaluated_policy(config.evaluation(delay))),
                settings,
                delay_folder(out, delay),
                about={"config": to_dict(config), "delay_steps": delay},
                existing="resume" if config.resume else "refuse",
                hooks=hooks,
            )
            codes.add(summary.exit_code)
            if summary.records:
                results[delay] = summary.records
                console.print(f"delay {delay}: {summary.headline}")
                rows = sweep_rows(results, 1 / first.backend.control_dt)
                swept = {
                    **first.policy.provenance, "task": first.policy.task, "config": to_dict(config),
                }  # fmt: skip
                write_json(out / JSON, {"schema": SCHEMA_VERSION, **swept, "delays": rows})
            if should_stop():
                codes.add(EXIT_INTERRUPTED)
                break
    if results:
        console.print(sweep_table(rows))
        if config.plot:
            write_bytes(out / PLOT, sweep_plot(rows, f"{path}, {first.policy.task}"))
        console.print(f"results in {out}: {JSON}{f', {PLOT}' if config.plot else ''}, delay_*/")
    return max(codes)  # in order of severity: some episodes errored, interrupted


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)
