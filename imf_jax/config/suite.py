"""Settings of suites of runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from imf_jax.config.base import TrackerMode, TrackerName, require, require_counts


@dataclass(frozen=True)
class SuiteConfig:
    """Many training runs and their evaluations, described in one file."""

    # YAML file that describes the suite; see docs/suites.md.
    file: Annotated[Path, tyro.conf.Positional]
    # Folder that receives everything; by default runs/ and the name of the file.
    out: Path | None = None
    # Continue the suite in --out: every run goes on from its newest checkpoint, finished ones are not repeated.
    resume: bool = False
    # Check the suite and print its runs, with their time as far as finished runs tell it; nothing is started.
    dry_run: bool = False
    # Runs at a time; by default one per GPU, of which each run has one, or one without a GPU, and no more than fit in
    # memory. Without a GPU they share the cores, each has its own. Of a cluster: jobs at a time, by default all.
    workers: int | None = None
    # Hand the runs to a cluster (extra cluster): slurm, or local, which is submitit's own executor.
    cluster: Literal["slurm", "local"] | None = None
    # Options of submitit for every job, KEY=VALUE: slurm_partition=gpu gpus_per_node=1 cpus_per_task=8 mem_gb=32.
    cluster_options: tuple[str, ...] = ()
    # External trackers of the training runs, which show them as one group.
    tracker: tuple[TrackerName, ...] = ()
    # Send to trackers at once (online), keep for later (offline), or neither (disabled).
    tracker_mode: TrackerMode = "online"

    def __post_init__(self) -> None:
        require_counts(self, "workers")
        require(not (self.resume and self.dry_run), "--dry-run starts nothing; leave --resume away")
        require(
            self.cluster is not None or not self.cluster_options,
            "--cluster-options would do nothing without --cluster slurm or local",
        )

    @property
    def folder(self) -> Path:
        """Folder of the suite."""
        return self.out or Path("runs") / self.file.stem
