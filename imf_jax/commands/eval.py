"""Evaluate a policy in batched rollouts. Example: python scripts/eval.py --checkpoint runs/transfer --save-images"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import tyro

from imf_jax.cli import run_main
from imf_jax.config import CaptureConfig, EvalConfig, require, to_dict
from imf_jax.files import new_folders, read_json
from imf_jax.interrupts import stop_on_interrupt
from imf_jax.jax_settings import set_precision
from imf_jax.terminal import make_console, make_table

console = make_console()


def main() -> int:
    """Parse the command line and evaluate."""
    config = tyro.cli(EvalConfig, description=__doc__)
    # Imported late, here and below, so that help and mistyped flags are answered without waiting for the simulator.
    from imf_jax.evaluation.folder import require_empty

    if config.jobs is not None:
        return run_jobs(config)
    if config.out is not None and not config.resume and not in_cluster(config):
        require_empty(config.out)
    with stop_on_interrupt() as should_stop:
        return evaluate_one(config, config.out, should_stop).exit_code


def evaluate_one(config: EvalConfig, out: Path | None, should_stop: Callable[[], bool]) -> Any:
    """Evaluate the policy that the flags name into `out`, or into a folder of its name; returns the `Summary`."""
    set_precision(config.precision)
    reference = read_reference(config.reference)
    # Imported late, so that help and mistyped flags are answered without waiting for the simulator to load.
    from imf_jax.evaluation.cluster import join_cluster
    from imf_jax.evaluation.evaluate import EvaluationSettings, Hooks, Summary, evaluate
    from imf_jax.evaluation.repeat import add_repeats, repeat_folder
    from imf_jax.evaluation.resume import recorded_renderer, require_resumable
    from imf_jax.evaluation.setup import assemble

    cluster = join_cluster(config.cluster)
    require(out is not None or cluster.count == 1, "several processes need one --out folder that all of them can write")
    require(
        config.renderer != "auto" or cluster.count == 1,
        "--renderer auto may choose differently in each process; name the renderer",
    )
    if out is not None and config.resume and cluster.count == 1:
        require_resumable(out)
        if config.renderer in (None, "auto"):
            config = replace(config, renderer=recorded_renderer(out) or config.renderer)
    setup = assemble(config)
    capture = config.capture.with_default(setup.backend.task.picture_camera)
    config = replace(config, renderer=setup.style.renderer, visual=setup.style.visual, capture=capture)
    say_setup(setup, config.checkpoint, cluster)
    if config.policy is not None:
        console.print(f"policy {setup.policy.label}: {config.policy}")
    settings = EvaluationSettings(config.episodes, config.num_envs, seed=config.seed, capture=config.capture)
    hooks = Hooks(should_stop, lambda line: console.print(line, style="dim"), show_progress=cluster.index == 0)

    def run(settings: EvaluationSettings, folder: Path) -> Summary:
        return evaluate(
            setup,
            settings,
            folder,
            about={"config": to_dict(config), "reference": reference},
            existing="resume" if config.resume else "refuse",
            cluster=cluster,
            hooks=hooks,
        )

    with ExitStack() as stack:
        stack.callback(setup.policy.close)
        if out is None:
            name = f"{setup.policy.folder}_seed{config.seed}"
            (out,) = stack.enter_context(new_folders(Path("evals"), [name]))
        runs = [run(settings, out)]
        while len(runs) < config.repeat and not runs[-1].metrics["interrupted"]:
            runs.append(run(replace(settings, capture=CaptureConfig()), repeat_folder(out, len(runs) + 1)))
    summary = runs[0]
    if len(runs) > 1 and cluster.index == 0:
        summary = add_repeats(summary, runs[1:])
    if cluster.index == 0:
        say_result(summary, reference)
    return summary


def run_jobs(config: EvalConfig) -> int:
    """Run a file of jobs, which is checked as a whole before the first one starts."""
    from imf_jax.evaluation import jobs as jobs_module
    from imf_jax.evaluation.folder import require_empty

    assert config.jobs is not None
    require(not in_cluster(config), "--jobs cannot be shared by several processes; run the jobs one by one")
    jobs = jobs_module.read_jobs(config.jobs, config)
    if config.out is not None and not config.resume:
        require_empty(config.out)
    with stop_on_interrupt() as should_stop, jobs_module.job_folders(jobs, config.out) as folders:
        results, code = jobs_module.run_jobs(
            jobs,
            folders,
            lambda job, folder: evaluate_one(job, folder, should_stop),
            resume=config.resume,
            continue_on_error=config.continue_on_error,
            say=lambda line: console.print(line, style="bold"),
        )
    rows: list[Sequence[object]] = [(result.name, result.status, result.line, result.folder) for result in results]
    rows += [(job.name, "not started", None, None) for job in jobs[len(results) :]]
    console.print(make_table(("job", "status", "result", "folder"), rows))
    return code


def in_cluster(config: EvalConfig) -> bool:
    """True if this is one of several processes: then others may have begun to write."""
    from imf_jax.evaluation.cluster import read_cluster

    return read_cluster(config.cluster) is not None


def say_setup(setup: Any, checkpoint: Path | None, cluster: Any) -> None:
    """Print the checkpoint, the backend and its devices; `checkpoint` as it was given."""
    found = setup.policy.checkpoint
    if found is not None and checkpoint is not None:
        newest = "" if found.resolve() == checkpoint.resolve() else " (newest complete one)"
        console.print(f"checkpoint {found}{newest}")
    processes = f", process {cluster.index} of {cluster.count}" if cluster.count > 1 else ""
    console.print(f"backend {setup.backend.name} on {setup.place}{processes}", style="dim")


def read_reference(folder: Path | None) -> dict[str, Any] | None:
    """Read the success of another evaluation, to show beside this one."""
    if folder is None:
        return None
    from imf_jax.evaluation.folder import MANIFEST, METRICS

    metrics = read_json(folder / METRICS)
    return {
        "label": read_json(folder / MANIFEST).get("policy", "reference"),
        **{name: metrics[name] for name in ("n_episodes", "n_success", "n_error", "pc_success", "pc_success_ci95")},
    }


def say_result(summary: Any, reference: dict[str, Any] | None) -> None:
    """Print the result of a run: success, speed, and the folder of the results."""
    from imf_jax.evaluation.folder import METRICS, RECORDS, REPORT
    from imf_jax.evaluation.statistics import flipped_line, ranking_warning, reached_line, success_line

    metrics = summary.metrics
    console.print(summary.headline, style="bold")
    if reached := reached_line(metrics):
        console.print(reached)
    if warning := ranking_warning(metrics["n_episodes"]):
        console.print(warning, style="yellow")
    if reference:
        console.print(f"{reference['label']}: {success_line(reference)}")
    if repeats := metrics.get("repeats"):
        console.print(flipped_line(repeats))
    if metrics["interrupted"]:
        console.print(f"interrupted after {metrics['n_episodes']} of {metrics['n_requested']} episodes", style="yellow")
    if metrics["overflow_steps"]:
        console.print(
            f"in {metrics['overflow_steps']} control steps a scene had more contacts or constraints than its buffers "
            "hold; its physics was not exact there",
            style="yellow",
        )
    for line in metrics["capture_errors"]:
        console.print(f"could not be written: {line}", style="yellow")
    captures = f"; captures {metrics['capture_s']:.1f} s" if metrics["capture_s"] >= 0.1 else ""
    share = metrics.get("useful_share")
    useful = "" if share is None else f", {share:.0%} of all that were simulated"
    console.print(
        f"{metrics['control_steps']:,} control steps in {metrics['wall_s']:.1f} s = "
        f"{metrics['control_steps_per_s']:,.0f} per second{useful}{captures}; "
        f"start-up and compilation {metrics['warmup_s']:.1f} s"
    )
    pictures = f", {len(summary.images)} pictures under episodes/" if summary.images else ""
    console.print(f"results in {summary.folder}: {REPORT}, {METRICS}, {RECORDS}{pictures}")


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)


if __name__ == "__main__":  # suites start `python -m imf_jax.commands.eval`
    run()
