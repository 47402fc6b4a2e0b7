"""Measure speed, as ratios of sides that take turns in one process. Example: python scripts/benchmark.py policy"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import tyro

from imf_jax.cli import run_main
from imf_jax.config import (
    IMAGE_SIZE,
    BackendName,
    PictureStyle,
    RendererName,
    TrainConfig,
    VisualName,
    flag,
    require,
    require_counts,
)
from imf_jax.errors import EXIT_FAILED, EXIT_OK
from imf_jax.files import write_bytes, write_json
from imf_jax.terminal import make_console, make_table

if TYPE_CHECKING:
    from imf_jax.benchmark.tables import Table

SIZES = ("128/4",)
"""Policy of `make demo`."""

JSON = "rollouts.json"
"""Figures in the folder of `rollouts --out`."""

console = make_console()


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
class RolloutsBenchmark:
    """Closed loop against the sum of its parts and against one scene at a time; scaling; promised figures of a GPU.

    In free air, and with objects in the hands. Figures are written as they come, also if the rest fails. The policies
    are untrained, or one is a checkpoint. About 5 minutes on two CPU cores.
    """

    # Task that untrained policies act on.
    task: str = "transfer"
    # Backend that simulates, see scripts/eval.py.
    backend: BackendName = "auto"
    # Sizes of the heads of policies without cameras, each "width/layers".
    sizes: tuple[str, ...] = SIZES
    # Also measure a policy that sees three cameras through the LEWM encoder.
    cameras: bool = True
    # Layout of its three views; by default grid, and on a GPU also what the presets use.
    fusion: Literal["row", "grid"] | None = None
    # Height and width of its pictures [pixels]; by default 256, and 128 for grid on a GPU.
    image_size: int | None = None
    # Operands of its encoder's matrix products; by default float32, and on a GPU also bfloat16.
    encoder_dtype: Literal["float32", "bfloat16"] | None = None
    # Size of its head; by default 384/12 on a GPU and 128/4 on a CPU.
    camera_size: str | None = None
    # Measure the policy of this checkpoint or run folder instead of untrained ones.
    checkpoint: Path | None = None
    # Scenes at once; by default 64 (with cameras 16) on a CPU and 1024 (with cameras 256) on a GPU.
    batch: int | None = None
    # Control steps of an episode; by default 200, and 24 with cameras on a CPU.
    steps: int | None = None
    # Rounds in which the sides take turns; also timed batches per batch size.
    repeats: int = 3
    # Largest batch size whose speed is measured.
    max_batch: int = 4096
    # Time for all batch sizes together, without starts and compilation, and for the evaluation of 1,000 episodes on a
    # GPU [s].
    max_seconds: float = 120.0
    # Renderer of the pictures.
    renderer: RendererName = "warp"
    # Meshes in these pictures: as they are, or decimated.
    visual: VisualName = "mesh"
    # Measure all that is measured on a GPU, in that order and in the smallest sizes, wherever this runs: a rehearsal.
    dry_run: bool = False
    # File that receives the figures as JSON, from the first ones on.
    json: Path | None = None
    # Folder that receives rollouts.json (from the first figures on), rollouts.md and the plot scaling.svg (needs the
    # extra `plots`).
    out: Path | None = None

    def run(self) -> "list[Table]":
        """Measure, and return the figures as tables."""
        require_counts(self, "batch", "steps", "repeats", "max_batch", "image_size")
        require(self.max_seconds > 0, f"--max-seconds is {self.max_seconds}; it must be positive")
        require(
            self.checkpoint is not None or bool(self.sizes) or self.cameras,
            "nothing is left to measure: name --sizes, or leave out --no-cameras",
        )
        require(
            self.checkpoint is None
            or (self.sizes == SIZES and self.cameras and not self._views() and self.task == "transfer"),
            "--task, --sizes, --camera-size, --fusion, --image-size, --encoder-dtype and --no-cameras are about "
            "untrained policies; leave them out beside --checkpoint",
        )
        unused = [name for name in self._views() if not self.cameras]
        require(not unused, f"{', '.join(unused)} would do nothing beside --no-cameras; leave out one of them")
        sizes = [parse_size(size) for size in self.sizes]
        camera_size = parse_size(self.camera_size) if self.camera_size else None
        from imf_jax.benchmark import suite
        from imf_jax.benchmark.tables import json_content, scaling_plot
        from imf_jax.files import reported_write_errors
        from imf_jax.plots import require_matplotlib
        from imf_jax.sim.backends.choice import resolve_backend

        if self.out is not None:
            require_matplotlib("take --json instead of --out")
            with reported_write_errors(self.out, "figures"):
                self.out.mkdir(parents=True, exist_ok=True)
        backend = resolve_backend(self.backend)
        if self.checkpoint is not None:
            policies = [suite.trained_policy(self.checkpoint)]
        else:
            seeing = (camera_size or suite.usual_camera_size()) if self.cameras else None
            views = suite.usual_views()
            if self.fusion or self.image_size or self.encoder_dtype:
                first = views[0]
                dtype = self.encoder_dtype or first.dtype
                views = [suite.Views(self.fusion or first.fusion, self.image_size or first.image_size, dtype)]
            policies = suite.untrained_policies(sizes, seeing, views=views, task=self.task)

        def keep(figures: suite.RolloutFigures) -> None:
            for path in (self.json, self.out and self.out / JSON):
                if path is not None:
                    write_json(path, json_content(figures.tables()))

        figures = suite.measure_rollouts(
            policies,
            backend,
            batch=self.batch,
            steps=self.steps,
            repeats=self.repeats,
            max_batch=self.max_batch,
            max_seconds=self.max_seconds,
            style=PictureStyle(self.renderer, self.visual),
            dry_run=self.dry_run,
            say=lambda line: console.print(line, style="dim"),
            on_figures=keep,
        )
        if self.out is not None and figures.scaling:
            write_bytes(self.out / "scaling.svg", scaling_plot(figures.scaling))
        return figures.tables()

    def _views(self) -> list[str]:
        """Flags about what a policy sees that were given."""
        return [flag(name) for name in ("camera_size", "fusion", "image_size", "encoder_dtype") if getattr(self, name)]


@dataclass(frozen=True)
class PeersBenchmark:
    """Closed loop on CPU threads against gymnasium's vector environments with a PyTorch policy (extra `peers`).

    The same scene, actions and size of policy on both sides, in free air and with the box in the hands. About 3 minutes
    on two CPU cores. Start it with .venv-parity/bin/python, which `make parity` makes.
    """

    # Size of the head, "width/layers".
    size: str = SIZES[0]
    # Scenes at once.
    batch: int = 64
    # Control steps of an episode.
    steps: int = 200
    # Rounds in which the sides take turns.
    repeats: int = 3
    # File that receives the figures as JSON, from the first ones on.
    json: Path | None = None

    def run(self) -> "list[Table]":
        """Measure, and return the figures as a table."""
        require_counts(self, "batch", "steps", "repeats")
        size = parse_size(self.size)
        from imf_jax.benchmark.peers import PeerFigures, measure_peers
        from imf_jax.benchmark.suite import untrained_policies
        from imf_jax.benchmark.tables import Table, json_content

        def tables(rows: Sequence[PeerFigures]) -> list[Table]:
            title = "Closed loop; ratio = time of a side / time of imf_jax in the same round"
            return [Table(title, [asdict(row) for row in rows])]

        def keep(rows: Sequence[PeerFigures]) -> None:
            if self.json is not None:
                write_json(self.json, json_content(tables(rows)))

        (policy,) = untrained_policies([size], None)
        figures = measure_peers(policy, batch=self.batch, steps=self.steps, repeats=self.repeats, on_figures=keep)
        return tables(figures)


@dataclass(frozen=True)
class EnvsBenchmark:
    """The vector environment of this package against Gymnasium's over plain MuJoCo environments (extra `gymnasium`)."""

    # Scenes at once.
    batch: int = 64
    # Control steps of an episode.
    steps: int = 200
    # Rounds in which the sides take turns.
    repeats: int = 3
    # File that receives the figures as JSON.
    json: Path | None = None

    def run(self) -> "list[Table]":
        """Measure, and return the figures as a table."""
        require_counts(self, "batch", "steps", "repeats")
        from imf_jax.benchmark.envs import measure_envs
        from imf_jax.benchmark.tables import Table

        rows = measure_envs(batch=self.batch, steps=self.steps, repeats=self.repeats)
        title = "Environments; ratio = time of a side / time of imf_jax in the same round"
        return [Table(title, [asdict(row) for row in rows])]


@dataclass(frozen=True)
class PicturesBenchmark:
    """Pictures per second of each renderer that works here, with whole and decimated meshes, at several sizes."""

    # Task whose scene is drawn.
    task: str = "transfer"
    # Cameras; by default all of the task.
    cameras: tuple[str, ...] = ()
    # Heights and widths of pictures [pixels].
    sizes: tuple[int, ...] = (64, 96, 128, 224, 256)
    # Scenes per call.
    scenes: int = 8
    # Rounds in which the sides take turns.
    rounds: int = 5
    # File that receives the figures as JSON.
    json: Path | None = None

    def run(self) -> "list[Table]":
        """Measure, and return the figures as a table."""
        require_counts(self, "scenes", "rounds")
        require(bool(self.sizes) and min(self.sizes) >= 1, "--sizes must name at least one size of 1 pixel or more")
        from imf_jax.benchmark.picture_rates import measure_pictures
        from imf_jax.benchmark.tables import Table

        rates = measure_pictures(self.task, self.cameras, self.sizes, scenes=self.scenes, rounds=self.rounds)
        title = (
            f"Pictures of {self.task}; ratio = rate of a side / rate of Warp with whole meshes in the same round; "
            "difference from whole meshes, of 255"
        )
        return [Table(title, [asdict(rate) for rate in rates])]


@dataclass(frozen=True)
class ResNetBenchmark:
    """Plans and training step of presets with a ResNet per camera, against PyTorch (extra `peers`), on CPU threads.

    Start it with .venv-parity/bin/python, which `make parity` makes.
    """

    # Presets, see configs/.
    presets: tuple[str, ...] = ("resnet-small", "resnet")
    # Windows of a training step of each preset; each has two observations of three cameras.
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


@dataclass(frozen=True)
class ServeBenchmark:
    """Plans through a policy server on loopback beside bare plans, and many clients beside one (extra `serve`)."""

    # Sizes of the heads of untrained policies, each "width/layers".
    sizes: tuple[str, ...] = SIZES
    # Clients at once, which are planned in one call.
    clients: int = 16
    # Timed plans of each side.
    rounds: int = 200
    # Time of a round of clients [s].
    seconds: float = 2.0
    # File that receives the figures as JSON.
    json: Path | None = None

    def run(self) -> "list[Table]":
        """Measure, and return the figures as a table."""
        require_counts(self, "clients", "rounds")
        require(self.seconds > 0, f"--seconds is {self.seconds}; it must be positive")
        sizes = [parse_size(size) for size in self.sizes]
        from imf_jax.benchmark.serving import measure_serving
        from imf_jax.benchmark.tables import Table

        rows = []
        for width, layers in sizes:
            console.print(f"measuring {width}/{layers} ...", style="dim")
            rows.append(
                asdict(measure_serving(width, layers, clients=self.clients, rounds=self.rounds, seconds=self.seconds))
            )
        title = "Policy server on loopback; extra = served plan - bare plan, gain = plans/s of all clients / of one"
        return [Table(title, rows)]


@dataclass(frozen=True)
class ReadingBenchmark:
    """Frames per second of reading a LeRobot dataset of videos, beside LeRobot's own loader."""

    # Episodes of the dataset that is written for it.
    episodes: int = 10
    # Steps of an episode.
    steps: int = 100
    # Height of its pictures [pixels].
    height: int = 480
    # Width of its pictures [pixels].
    width: int = 640
    # Passes of each kind.
    rounds: int = 3
    # Python of an environment with lerobot, such as .venv-lerobot/bin/python of `make lerobot-check`.
    peer: Path | None = None
    # File that receives the figures as JSON.
    json: Path | None = None

    def run(self) -> "list[Table]":
        """Measure, and return the figures as tables."""
        from imf_jax.benchmark.reading import measure
        from imf_jax.benchmark.tables import Table

        require_counts(self, "episodes", "steps", "height", "width", "rounds")
        speeds = measure(
            episodes=self.episodes,
            steps=self.steps,
            height=self.height,
            width=self.width,
            rounds=self.rounds,
            peer=self.peer,
        )
        title = "Reading a LeRobot dataset [frames/s]; ratio = imf_jax / lerobot in the same round"
        return [Table(title, [asdict(speed) for speed in speeds])]


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


def parse_size(size: str) -> tuple[int, int]:
    """Parse width and layers of a head written as "256/6"."""
    width, _, layers = size.partition("/")
    require(width.isdigit() and layers.isdigit(), f"--sizes {size!r} must be width/layers, for example 256/6")
    return int(width), int(layers)


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
