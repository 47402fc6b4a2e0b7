"""Measure speed, as ratios of sides that take turns in one process. Example: python scripts/benchmark.py policy"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from imf_jax.cli import run_main
from imf_jax.config import IMAGE_SIZE, require
from imf_jax.files import write_json

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class PolicyBenchmark:
    """Training step and plan of the IMF-AttnRes head against a plain JAX port (and a peer of yours)."""

    # Sizes of the head, each "width/layers".
    sizes: tuple[str, ...] = ("128/4", "256/6", "384/12")
    # Rows of a training step.
    batch: int = 64
    # Rows of a plan.
    plan_batch: int = 1
    # Training steps per side; ten times as many plans.
    rounds: int = 11
    # Python file with a function `build(config, weights, threads)`, see imf_jax/benchmark/policy.py.
    peer: Path | None = None
    # File that receives the figures as JSON.
    json: Path | None = None

    def run(self) -> tuple[str, list[dict[str, Any]]]:
        import jax

        from imf_jax.benchmark.policy import measure

        jax.config.update("jax_enable_compilation_cache", False)  # or compilation would be timed only once
        require(
            self.rounds >= 1 and self.batch >= 1 and self.plan_batch >= 1, "rounds and batch sizes must be positive"
        )
        rows = []
        for size in self.sizes:
            width, layers = parse_size(size)
            console.print(f"measuring {size} ...", style="dim")
            timings = measure(
                width,
                layers,
                batch=self.batch,
                plan_batch=self.plan_batch,
                rounds=self.rounds,
                peer=self.peer,
            )
            rows += [asdict(timing) for timing in timings]
        return "IMF-AttnRes head; ratio = time of a side / time of imf_jax in the same round", rows


@dataclass(frozen=True)
class LewmBenchmark:
    """Embeddings per second of the frozen LEWM encoder against PyTorch and transformers (extra `parity`)."""

    # Pictures per call.
    batch: int = 32
    # Calls of each side.
    rounds: int = 10
    # Also measure PyTorch and transformers.
    peer: bool = True
    # File that receives the figures as JSON.
    json: Path | None = None

    def run(self) -> tuple[str, list[dict[str, Any]]]:
        from imf_jax.benchmark.lewm import measure

        require(min(self.rounds, self.batch) >= 1, "rounds and batch must be positive")
        speed = measure(batch=self.batch, rounds=self.rounds, peer=self.peer)
        return "LEWM embeddings per second; ratio above 1: this port is faster", [asdict(speed)]


@dataclass(frozen=True)
class FeaturesBenchmark:
    """Training steps from cached features against steps that run the frozen LEWM encoder on their pictures."""

    # Sizes of the head, each "width/layers".
    sizes: tuple[str, ...] = ("384/12",)
    # Windows per training step; each has two observations of three cameras.
    batch: int = 64
    # Training steps per side.
    rounds: int = 3
    # Layout of the three views in the one picture that the encoder sees.
    fusion: Literal["row", "grid"] = "row"
    # Height and width of the camera pictures [pixels].
    image_size: int = IMAGE_SIZE
    # File that receives the figures as JSON.
    json: Path | None = None

    def run(self) -> tuple[str, list[dict[str, Any]]]:
        from imf_jax.benchmark.features import measure

        require(min(self.rounds, self.batch, self.image_size) >= 1, "rounds, batch and image size must be positive")
        rows = []
        for size in self.sizes:
            width, layers = parse_size(size)
            console.print(f"measuring {size} ...", style="dim")
            speed = measure(
                width=width,
                layers=layers,
                batch=self.batch,
                rounds=self.rounds,
                fusion=self.fusion,
                image_size=self.image_size,
            )
            rows.append(asdict(speed))
        return "training step with cached features; ratio = time with the encoder in the step / time without", rows


Benchmark = (
    Annotated[PolicyBenchmark, tyro.conf.subcommand("policy")]
    | Annotated[LewmBenchmark, tyro.conf.subcommand("lewm")]
    | Annotated[FeaturesBenchmark, tyro.conf.subcommand("features")]
)


def parse_size(size: str) -> tuple[int, int]:
    """Width and layers of a head written as "256/6"."""
    width, _, layers = size.partition("/")
    require(width.isdigit() and layers.isdigit(), f"--sizes {size!r} must be width/layers, for example 256/6")
    return int(width), int(layers)


def main() -> None:
    benchmark: PolicyBenchmark | LewmBenchmark | FeaturesBenchmark = tyro.cli(Benchmark, description=__doc__)  # type: ignore[arg-type]
    title, rows = benchmark.run()
    table = Table(*rows[0], title=f"{title}; {machine()}")
    for row in rows:
        table.add_row(*(format_cell(value) for value in row.values()))
    console.print(table)
    if benchmark.json is not None:
        write_json(benchmark.json, {"title": title, "machine": machine(), "rows": rows})
        console.print(f"figures in {benchmark.json}", markup=False)


def machine() -> str:
    """Device, threads and JAX version, in a few words."""
    import jax

    from imf_jax.benchmark.policy import cpu_threads

    return f"{jax.devices()[0].device_kind}, {cpu_threads()} CPU threads, jax {jax.__version__}"


def format_cell(value: Any) -> str:
    """Numbers to three digits; nothing for what was not measured."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    run_main(main)
