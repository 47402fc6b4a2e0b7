"""Make report.html of an evaluation again, or compare evaluations of the same scenes.

Examples: python scripts/report.py evals/mine; python scripts/report.py evals/first evals/second --out comparison.html
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import tyro

from imf_jax.cli import run_main
from imf_jax.config import require
from imf_jax.terminal import make_console, make_table

if TYPE_CHECKING:
    from imf_jax.evaluation.report.comparison import Comparison
    from imf_jax.evaluation.report.levels import LevelRow

COMPARISON = Path("comparison.html")
LEVEL_HEADS = ("level", "success", "%", "95 % interval", "difference", "lost / won", "p (Holm)", "lost before reaching")


def report(folders: Annotated[tuple[Path, ...], tyro.conf.Positional], out: Path | None = None) -> None:
    """Make report.html of one evaluation again, from what its folder holds; or compare several of the same scenes.

    Args:
        folders: Folders of evaluations (each holds episodes.jsonl): of one the report is written, several are compared.
        out: Page that receives a comparison; by default comparison.html.
    """
    require(bool(folders), "name the folder of an evaluation, or several to compare them")
    require(len(folders) > 1 or out is None, "--out would do nothing: the report of one evaluation stays in its folder")
    require(out is None or not out.is_dir(), f"--out {out} is a folder; name a file, for example {COMPARISON}")
    names = [folder.resolve() for folder in folders]
    twice = [str(folder) for folder, name in zip(folders, names, strict=True) if names.count(name) > 1]
    require(not twice, f"{' and '.join(twice)} are the same folder; compare different ones")
    # Imported late, so that help and mistyped flags are answered without waiting for JAX to load.
    from imf_jax.evaluation.report.comparison import compare
    from imf_jax.evaluation.report.load import read_evaluation
    from imf_jax.evaluation.report.page import write_comparison, write_report

    if len(folders) == 1:
        print(write_report(folders[0]))
        return
    comparison = compare([read_evaluation(folder) for folder in folders])
    say_comparison(comparison)
    print(write_comparison(comparison, out or COMPARISON))


def say_comparison(comparison: "Comparison") -> None:
    """Print a comparison: success of each, then every pair with its discordant episodes."""
    from imf_jax.evaluation.report.comparison import conclusion
    from imf_jax.evaluation.report.levels import level_curves

    console = make_console()
    rows = []
    for label, figures in zip(comparison.labels, comparison.statistics, strict=True):
        low, high = figures["pc_success_ci95"]
        returns = figures["return"]
        rows.append((
            label, f"{figures['n_success']}/{figures['n_episodes']}", f"{figures['pc_success']:.1f}",
            f"{low:.1f}-{high:.1f}", figures["n_error"], f"{returns['mean']:.1f}" if returns else "-",
        ))  # fmt: skip
    console.print(f"{len(comparison.evaluations[0].records)} scenes, the same for all")
    heads = ("evaluation", "success", "%", "95 % interval", "errors", "mean return")
    console.print(make_table(heads, rows, left=1))
    for curve in level_curves(comparison):
        console.print(f"{curve.policy}: success against the level of {curve.name}")
        console.print(make_table(LEVEL_HEADS, [_level_cells(row) for row in curve.rows]))
    for pair in comparison.pairs:
        lines = [f"{conclusion(comparison, pair)} (exact McNemar test: p = {pair.p_value:.2g}"]
        lines[0] += (
            f", {pair.p_value_holm:.2g} for {len(comparison.pairs)} pairs)" if len(comparison.pairs) > 1 else ")"
        )
        for index, episodes in ((pair.first, pair.only_first), (pair.second, pair.only_second)):
            if episodes:
                lines.append(f"  only {comparison.labels[index]} succeeded in: {', '.join(map(str, episodes))}")
        console.print("\n".join(lines))
    for line in comparison.warnings:
        console.print(f"warning: {line}", style="yellow")


def _level_cells(row: "LevelRow") -> tuple[str, ...]:
    low, high = row.figures["pc_success_ci95"]
    success = f"{row.figures['n_success']}/{row.figures['n_episodes']}"
    cells = (f"{row.level:g}", success, f"{row.figures['pc_success']:.1f}", f"{low:.1f}-{high:.1f}")
    if row.p_value_holm is None:  # what the others are compared with
        return (*cells, "", "", "", "")
    changed = f"{len(row.lost)} / {len(row.won)}"
    return (*cells, f"{row.difference:+.1f}", changed, f"{row.p_value_holm:.2g}", row.lost_text)


def main() -> None:
    """Parse the command line and write the report."""
    tyro.cli(report)


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)
