"""Several processes, on one host or many, that share the episodes of one evaluation.

Each process runs its share and writes it as an evaluation of its own under `<out>/processes/`; when all are done, the
first one merges them. The processes meet through JAX's own multi-process runtime and share the folder.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from imf_jax.config import ClusterConfig, flag, require
from imf_jax.errors import UserError

PROCESSES = "processes"

ENVIRONMENT = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
"""Variables that stand in for flags which are not given."""


@dataclass(frozen=True)
class Cluster:
    """Cluster of the processes of an evaluation, as one of them sees it.

    Attributes:
        index: index of this process, from 0.
        count: number of processes; 1 without a cluster.
    """

    index: int = 0
    count: int = 1

    def share(self, episodes: Sequence[int]) -> Sequence[int]:
        """Share of the episodes that this process runs: every `count`-th."""
        return episodes[self.index :: self.count]

    def folder(self, out: Path) -> Path:
        """Folder that this process writes to."""
        return out if self.count == 1 else process_folder(out, self.index)

    def wait(self, name: str) -> None:
        """Wait until all processes have reached this point.

        Raises:
            UserError: one of them has failed.
        """
        if self.count == 1:
            return
        from jax.experimental import multihost_utils

        try:
            multihost_utils.sync_global_devices(name)
        except Exception as error:  # the runtime's own exceptions have no common public type
            raise UserError(f"another process of the cluster has failed or is gone ({type(error).__name__})") from None


def process_folder(out: Path, index: int) -> Path:
    """Folder that process `index` writes its share to."""
    return out / PROCESSES / f"{index:03d}"


def read_cluster(config: ClusterConfig) -> tuple[str, int, int] | None:
    """Read coordinator, number of processes and index of this one, from flags or environment; None for a single one.

    Raises:
        ArgumentError: some of the three are there and some are not, or they contradict each other.
    """
    values = {}
    for name, variable in ENVIRONMENT.items():
        given = getattr(config, name)
        values[name] = given if given is not None else os.environ.get(variable)
    absent = [name for name, value in values.items() if value in (None, "")]
    if len(absent) == len(values):
        return None
    flags = ", ".join(f"{flag(f'cluster.{name}')} (or {ENVIRONMENT[name]})" for name in absent)
    require(not absent, f"the cluster is only half configured: add {flags}, or give none of the three")
    address, count, index = str(values["coordinator"]), values["num_processes"], values["process_id"]
    for name in ("num_processes", "process_id"):
        require(str(values[name]).isdigit(), f"{name} {values[name]!r} of the cluster must be a whole number")
    count, index = int(str(count)), int(str(index))
    host, _, port = address.rpartition(":")
    require(bool(host) and port.isdigit(), f"coordinator {address!r} must be HOST:PORT, for example 10.0.0.1:7000")
    require(count >= 1, f"num_processes {count} of the cluster must be at least 1")
    require(index < count, f"process_id {index} of the cluster must be in [0, {count - 1}]")
    devices = config.local_device_ids
    require(
        min(devices, default=0) >= 0 and len(set(devices)) == len(devices),
        f"{flag('cluster.local_device_ids')} {' '.join(map(str, devices))} must be different numbers from 0 on",
    )
    return address, count, index


def join_cluster(config: ClusterConfig) -> Cluster:
    """Join the other processes; call it before anything else uses JAX's devices.

    Raises:
        ArgumentError: see `read_cluster`.
        UserError: the coordinator cannot be reached, or not all processes come in time.
    """
    settings = read_cluster(config)
    if settings is None or settings[1] == 1:
        return Cluster()
    address, count, index = settings
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from `imf_jax.interrupts`
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            local_device_ids=config.local_device_ids or None,
            initialization_timeout=config.timeout_s,
        )
    except Exception as error:  # the runtime's own exceptions have no common public type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"process {index} of {count} cannot meet the others at {address} ({reason}); is the process with id 0 "
            "running there, and is the port open?"
        ) from None
    return Cluster(index, count)


def move_artifacts(source: Path, target: Path) -> None:
    """Move the episode folders of a process' share into the merged evaluation."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for folder in sorted(source.iterdir()):
            shutil.move(str(folder), str(target / folder.name))
