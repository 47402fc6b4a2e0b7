"""Success against the delay of plans, on the same scenes: figures, table and plot of a sweep."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from imf_jax.config import LatencyConfig, PolicyConfig, require
from imf_jax.evaluation.report.comparison import holm_correction, mcnemar_p_value
from imf_jax.evaluation.resume import require_resumable
from imf_jax.evaluation.statistics import episode_statistics
from imf_jax.rollout.delay import longest_delay, require_execution
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.terminal import make_table

JSON = "latency.json"
PLOT = "latency.png"
SCHEMA_VERSION = 1


def sweep_delays(config: LatencyConfig, policy: PolicyConfig) -> list[int]:
    """List the delays to evaluate, in ascending order.

    Args:
        config: the sweep.
        policy: of the checkpoint.

    Raises:
        ArgumentError: the policy cannot be executed with one of them; names the flag.
    """
    delays = sorted(config.delays)
    if not delays:
        longest = longest_delay(policy)
        if config.prefix:
            longest = min(longest, policy.prefix_training, config.replan_every or policy.num_action_steps)
            require(longest > 0, "--prefix needs a policy trained for it; train one with --prefix-training")
        delays = list(range(longest + 1))
    for delay in delays:
        require_execution(config.execution(delay), policy)
    return delays


def delay_folder(out: Path, delay: int) -> Path:
    """Folder, within that of a sweep, of the evaluation of a delay [control steps]."""
    return out / f"delay_{delay:02d}"


def require_sweep(out: Path, delays: Sequence[int]) -> None:
    """Refuse to continue in a folder that holds no sweep.

    Args:
        out: the folder of the sweep; there may be nothing of it yet.
        delays: those that will be evaluated [control steps].

    Raises:
        ArgumentError: the folder, or that of a delay, holds something else.
        UserError: a folder cannot be read.
    """
    if not any(out.glob("delay_*")):
        require_resumable(out)
    for delay in delays:
        require_resumable(delay_folder(out, delay))


def sweep_rows(results: dict[int, Sequence[EpisodeRecord]], control_hz: float) -> list[dict[str, Any]]:
    """Compute the figures of each delay, and the changes from the smallest one on the scenes that both have.

    Args:
        results: delay [control steps] -> the episodes.
        control_hz: control steps per second.

    Returns:
        one dictionary of plain JSON types per delay: `delay_steps`, `delay_ms`, `n_episodes`, `n_success`, `n_error`,
        `pc_success`, its Wilson interval `pc_success_ci95` [%]; and against the smallest delay `n_lost` and `n_won`
        (scenes that changed), `p_value` of the exact McNemar test and `p_value_holm`, corrected for the number of
        delays; these four are None for the smallest delay itself.
    """
    delays = sorted(results)
    succeeded = {delay: {r.episode: r.status == "success" for r in results[delay]} for delay in delays}
    first = succeeded[delays[0]]
    rows: list[dict[str, Any]] = []
    for delay in delays:
        figures = episode_statistics(results[delay])
        pairs = [(first[episode], now) for episode, now in succeeded[delay].items() if episode in first]
        lost, won = pairs.count((True, False)), pairs.count((False, True))
        names = ("n_episodes", "n_success", "n_error", "pc_success", "pc_success_ci95")
        rows.append(
            {
                "delay_steps": delay,
                "delay_ms": 1000 * delay / control_hz,
                **{name: figures[name] for name in names},
                "n_lost": lost,
                "n_won": won,
                "p_value": mcnemar_p_value(lost, won),
            }
        )
    corrected = holm_correction([row["p_value"] for row in rows[1:]])
    for row, p_value in zip(rows[1:], corrected, strict=True):
        row["p_value_holm"] = p_value
    rows[0] |= dict.fromkeys(("n_lost", "n_won", "p_value", "p_value_holm"))
    return rows


def sweep_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Format the figures as a table for the terminal."""
    first = rows[0]["delay_steps"]
    heads = ("delay", "[ms]", "success", "%", "95 % interval", f"lost / won against {first}", "p (Holm)")
    cells = []
    for row in rows:
        low, high = row["pc_success_ci95"]
        rate = "-" if row["pc_success"] is None else f"{row['pc_success']:.1f}"
        changed, p_value = ("", "")
        if row["n_lost"] is not None:
            changed, p_value = f"{row['n_lost']} / {row['n_won']}", f"{row['p_value_holm']:.3f}"
        cells.append((
            row["delay_steps"], f"{row['delay_ms']:.0f}", f"{row['n_success']}/{row['n_episodes']}", rate,
            f"{low:.1f}-{high:.1f}", changed, p_value,
        ))  # fmt: skip
    return make_table(heads, cells, left=0)


def sweep_plot(rows: Sequence[dict[str, Any]], title: str) -> bytes:
    """Plot success with its intervals over the delay, as a PNG."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["n_episodes"]]
    delays, rates = [row["delay_steps"] for row in rows], [row["pc_success"] for row in rows]
    below = [row["pc_success"] - row["pc_success_ci95"][0] for row in rows]
    above = [row["pc_success_ci95"][1] - row["pc_success"] for row in rows]
    figure = Figure(figsize=(7, 4.5), layout="constrained", dpi=150)
    axes = figure.subplots()
    axes.errorbar(delays, rates, yerr=[below, above], marker="o", capsize=3)
    axes.set_xticks(delays)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("delay of a plan [control steps]")
    axes.set_ylabel("success [%], 95 % Wilson intervals")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    last = max(rows, key=lambda row: row["delay_steps"])
    if last["delay_steps"]:
        scale = last["delay_ms"] / last["delay_steps"]
        top = axes.secondary_xaxis("top", functions=(lambda x: scale * x, lambda x: x / scale))
        top.set_xlabel("[ms]")
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
