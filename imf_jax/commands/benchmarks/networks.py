"""Benchmarks of networks and encoders: policies, LEWM, cached features, ResNets."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from imf_jax.commands.benchmarks.common import console, parse_size
from imf_jax.config import IMAGE_SIZE, TrainConfig, require, require_counts

if TYPE_CHECKING:
    from imf_jax.benchmark.tables import Table


@dataclass(frozen=True)
class PolicyBenchmark:
    """Training step and plan of the IMF-AttnRes head against a plain JAX port, and PyTorch or a peer of yours."""

    # Sizes of the head, each "width/layers".
    sizes: tuple[str, ...] = ("128/4", "256/6", "384/12")
    # Rows of a training step.
    batch: int = 64
    # Rows of a plan.
    plan_batch: int = 1
    # Training steps per side; ten times as many plans.
    rounds: int = 11
    # Also measure `torch`, a PyTorch port that is ready in the environment of `make parity`, or a Python file with a
    # function `build(config, weights, threads)`, see imf_jax/benchmark/policy.py.
    peer: Path | None = None
    # File that receives the figures as JSON.
    json: Path | None = None

    def run(self) -> "list[Table]":
        """Measure, and return the figures as tables."""
        import jax

        from imf_jax.benchmark.policy import measure
        from imf_jax.benchmark.tables import Table

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
        return [Table("IMF-AttnRes head; ratio = time of a side / time of imf_jax in the same round", rows)]


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

    def run(self) -> "list[Table]":
        """Measure, and return the figures as tables."""
        from imf_jax.benchmark.lewm import measure
        from imf_jax.benchmark.tables import Table

        require(min(self.rounds, self.batch) >= 1, "rounds and batch must be positive")
        speed = measure(batch=self.batch, rounds=self.rounds, peer=self.peer)
        return [Table("LEWM embeddings per second; ratio above 1: this port is faster", [asdict(speed)])]


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

    def run(self) -> "list[Table]":
        """Measure, and return the figures as tables."""
        from imf_jax.benchmark.features import measure
        from imf_jax.benchmark.tables import Table

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
        title = "training step with cached features; ratio = time with the encoder in the step / time without"
        return [Table(title, rows)]


@dataclass(frozen=True)
class ResNetBenchmark:
    """Plans and training step of presets with a ResNet per camera, against PyTorch (extra `peers`), on CPU threads.

    Start it with .venv-parity/bin/python, which `make parity` makes.
    """

    # Presets, see configs/.
    presets: tuple[str, ...] = ("resnet-small", "resnet")
    # Windows of a training step of each preset; each has as many observations as its preset reads.
    batches: tuple[int, ...] = (32, 4)
    # Rows of plans.
    plan_batches: tuple[int, ...] = (1, 16)
    # Calls of every side.
    rounds: int = 5
    # Also measure PyTorch.
    peer: bool = True
    # File that receives the figures as JSON.
    json: Path | None = None

    def run(self) -> "list[Table]":
        """Measure, and return the figures as a table."""
        require_counts(self, "rounds")
        require(bool(self.presets), "--presets must name at least one preset")
        require(
            len(self.batches) == len(self.presets),
            f"--batches has {len(self.batches)} entries for {len(self.presets)} presets; give one for each",
        )
        require(min((*self.batches, *self.plan_batches)) >= 1, "--batches and --plan-batches must be positive")
        from imf_jax.benchmark.resnet import measure
        from imf_jax.benchmark.tables import Table
        from imf_jax.presets import load_preset

        rows = []
        for preset, batch in zip(self.presets, self.batches, strict=True):
            config: TrainConfig = load_preset(preset)
            console.print(f"measuring {preset} ...", style="dim")
            timings = measure(
                preset, config.policy, batch=batch, plan_batches=self.plan_batches, rounds=self.rounds, peer=self.peer
            )
            rows += [asdict(timing) for timing in timings]
        return [Table("ResNet policy; ratio = time of a side / time of imf_jax in the same round", rows)]
