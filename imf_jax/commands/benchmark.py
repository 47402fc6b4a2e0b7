"""Measure speed, as ratios of sides that take turns in one process. Example: python scripts/benchmark.py policy"""

from typing import Annotated, Any, NoReturn

import tyro

from imf_jax.cli import run_main
from imf_jax.commands.benchmarks.common import JSON, console
from imf_jax.commands.benchmarks.loops import EnvsBenchmark, PeersBenchmark, RolloutsBenchmark, ServeBenchmark
from imf_jax.commands.benchmarks.networks import FeaturesBenchmark, LewmBenchmark, PolicyBenchmark, ResNetBenchmark
from imf_jax.commands.benchmarks.readings import PicturesBenchmark, ReadingBenchmark
from imf_jax.config import require
from imf_jax.errors import EXIT_FAILED, EXIT_OK
from imf_jax.files import write_bytes, write_json
from imf_jax.terminal import make_table

Benchmark = (
    Annotated[PolicyBenchmark, tyro.conf.subcommand("policy")]
    | Annotated[LewmBenchmark, tyro.conf.subcommand("lewm")]
    | Annotated[FeaturesBenchmark, tyro.conf.subcommand("features")]
    | Annotated[RolloutsBenchmark, tyro.conf.subcommand("rollouts")]
    | Annotated[PeersBenchmark, tyro.conf.subcommand("peers")]
    | Annotated[EnvsBenchmark, tyro.conf.subcommand("envs")]
    | Annotated[PicturesBenchmark, tyro.conf.subcommand("pictures")]
    | Annotated[ResNetBenchmark, tyro.conf.subcommand("resnet")]
    | Annotated[ServeBenchmark, tyro.conf.subcommand("serve")]
    | Annotated[ReadingBenchmark, tyro.conf.subcommand("reading")]
)


def main() -> int:
    """Parse the command line and run the benchmark; 1 if a part of it failed."""
    benchmark: Any = tyro.cli(Benchmark, description=__doc__)
    if benchmark.json is not None:
        require(benchmark.json.parent.is_dir(), f"--json {benchmark.json}: make the folder first")
    tables = benchmark.run()
    from imf_jax.benchmark.tables import FAILED, json_content, machine, markdown

    for measured in tables:
        names, *rows = measured.cells()
        console.print(f"{measured.title}; {machine()}")
        console.print(make_table(names, rows))
    content = json_content(tables)
    out = getattr(benchmark, "out", None)
    if out is not None:
        write_json(out / JSON, content)
        write_bytes(out / "rollouts.md", markdown(tables).encode())
        console.print(f"figures and plot in {out}")
    if benchmark.json is not None:
        write_json(benchmark.json, content)
        console.print(f"figures in {benchmark.json}")
    return EXIT_FAILED if any(table.title == FAILED for table in tables) else EXIT_OK


def run() -> NoReturn:
    """Run the command line and exit with its code."""
    run_main(main)
