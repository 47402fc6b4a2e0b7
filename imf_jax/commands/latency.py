"""Success against the delay of plans. Example: python scripts/latency.py --checkpoint runs/transfer --delays 0 2 4 8"""

from pathlib import Path
from typing import Any, NoReturn

import tyro

from imf_jax.cli import run_main, stop_on_interrupt
from imf_jax.config import LatencyConfig, to_dict
from imf_jax.errors import EXIT_INTERRUPTED
from imf_jax.evaluation.candidates import Candidate, load_checkpoint
from imf_jax.evaluation.folder import require_empty
from imf_jax.files import timestamp, write_bytes, write_json
from imf_jax.terminal import make_console

console = make_console()


def main() -> int:
    """Parse the command line and do what it says."""
    config = tyro.cli(LatencyConfig, description=__doc__)
    if config.out is not None and not config.resume:
        require_empty(config.out)
    # Imported late, so that help and mistyped flags are answered without waiting for the simulator to load.
    from imf_jax.checkpoints import read_config, resolve_checkpoint
    from imf_jax.evaluation.evaluate import EvaluationSettings, evaluate
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
    from imf_jax.plots import require_matplotlib
    from imf_jax.sim.backends.choice import make_backend, resolve_backend, resolve_devices

    delays = sweep_delays(config, read_config(resolve_checkpoint(config.checkpoint)).policy)
    if config.plot:
        require_matplotlib("leave the plot out with --no-plot")
    if config.resume and config.out is not None:
        require_sweep(config.out, delays)
    backend_name = resolve_backend(config.backend)
    devices = resolve_devices(backend_name, config.devices, config.num_envs)

    def load(delay: int) -> tuple[Candidate, Path]:
        return load_checkpoint(
            config.checkpoint,
            task=None,
            sampling_steps=config.sampling_steps,
            plan_batch=config.plan_batch,
            execution=config.execution(delay),
        )

    first, path = load(delays[0])
    out = config.out or default_out(path.resolve().parent.parent.name, config.seed)
    console.print(f"checkpoint {path}, backend {backend_name}", style="dim")
    backend = make_backend(
        backend_name,
        first.task,
        image_size=first.image_size,
        renderer="warp",
        interpolation=config.action_interpolation,
        devices=devices,
    )
    settings = EvaluationSettings(episodes=config.episodes, num_envs=config.num_envs, seed=config.seed)
    results: dict[int, Any] = {}
    codes = set()
    with stop_on_interrupt() as should_stop:
        for delay in delays:
            candidate, _ = load(delay)
            summary = evaluate(
                candidate.planner,
                backend,
                settings,
                delay_folder(out, delay),
                policy=candidate.label,
                provenance={**candidate.provenance, "config": to_dict(config), "delay_steps": delay},
                resume=config.resume,
                show_progress=True,
                should_stop=should_stop,
                on_note=lambda line: console.print(line, style="dim"),
                devices=devices if backend.compiled else (),
            )
            codes.add(summary.exit_code)
            if summary.records:
                results[delay] = summary.records
                console.print(f"delay {delay}: {summary.headline}")
                rows = sweep_rows(results, 1 / backend.control_dt)
                swept = {**first.provenance, "task": first.task, "config": to_dict(config)}
                write_json(out / JSON, {"schema": SCHEMA_VERSION, **swept, "delays": rows})
            if should_stop():
                codes.add(EXIT_INTERRUPTED)
                break
    if results:
        console.print(sweep_table(rows))
        if config.plot:
            write_bytes(out / PLOT, sweep_plot(rows, f"{path}, {first.task}"))
        console.print(f"results in {out}: {JSON}{f', {PLOT}' if config.plot else ''}, delay_*/")
    return max(codes)  # in order of severity: some episodes errored, interrupted


def default_out(name: str, seed: int) -> Path:
    """A folder that no other sweep has."""
    return Path("evals") / f"{timestamp()}_latency_{name}_seed{seed}"


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)
