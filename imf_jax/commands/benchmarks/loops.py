"""Benchmarks of the closed loop, and of what stands in its place elsewhere."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from imf_jax.commands.benchmarks.common import JSON, SIZES, console, parse_size
from imf_jax.config import BackendName, PictureStyle, RendererName, VisualName, flag, require, require_counts
from imf_jax.files import write_bytes, write_json

if TYPE_CHECKING:
    from imf_jax.benchmark.tables import Table


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
