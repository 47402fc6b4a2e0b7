"""Convert an IMF-AttnRes policy head from a PyTorch checkpoint; neither PyTorch nor the classes are needed.

    python converters/imf_head.py --checkpoint last.ckpt --n-head 8 --stats demos/stats.json --out runs/imported
    python scripts/eval.py --checkpoint runs/imported ...

The folder is a run folder with one checkpoint, as training leaves it, and `report.json`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from imf_jax.config import (
    IMAGE_SIZE,
    ImfConfig,
    LewmEncoderConfig,
    OptimizerConfig,
    StateEncoderConfig,
    TrainConfig,
    require,
    to_dict,
)
from imf_jax.conversion.head_settings import FROM_CONFIG, read_sizes
from imf_jax.conversion.report import REPORT_FILE, Report, inspect, json_bytes, print_report, problems_on_stderr
from imf_jax.conversion.wrappers import unwrapped_paths, without_wrappers
from imf_jax.data.statistics import COLUMNS, FILE, MOMENTS
from imf_jax.data.statistics import read_statistics as statistics_of
from imf_jax.errors import UserError
from imf_jax.files import atomic_folder, write_bytes
from imf_jax.weight_files.tensors import DTYPES, FLOATING
from imf_jax.weight_files.torch_file import Checkpoint, open_checkpoint

STATISTIC = re.compile(rf"(?:.*\.)?normalizer\.({'|'.join(COLUMNS)})[._]({'|'.join(MOMENTS)})")


@dataclass(frozen=True)
class Args:
    """Convert an IMF-AttnRes head."""

    # Lightning .ckpt, state dict .pt, pickled module or .safetensors; a folder with model.safetensors,
    # or the index of a checkpoint in several files. Nothing in it is executed.
    checkpoint: Path
    # New run folder that receives the policy.
    out: Path | None = None
    # Task that the policy was trained for.
    task: str = "transfer"
    # Folder of the converted LEWM encoder (converters/lewm.py) whose embedding the head is conditioned on, if any;
    # without one it is conditioned on the scene state.
    lewm: Path | None = None
    # Layout of the three views in the one picture that the LEWM encoder sees.
    fusion: Literal["row", "grid"] = "row"
    # Height and width of the camera pictures that the policy reads [pixels].
    image_size: int = IMAGE_SIZE
    # Query heads; needed unless a config.json beside the checkpoint tells.
    n_head: int | None = None
    # Key/value heads; by default what the tensors show for that many query heads.
    n_kv_head: int | None = None
    # Length of a predicted chunk [control steps]; by default from config.json beside the checkpoint, else 16.
    pred_horizon: int | None = None
    # Observations the policy sees [control steps]; by default from config.json beside the checkpoint, else 2.
    obs_horizon: int | None = None
    # Actions executed from a chunk [control steps]; by default from config.json beside the checkpoint, else 8.
    num_action_steps: int | None = None
    # Normalisation of actions and states in training.
    normalization: Literal["min_max", "mean_std"] = "min_max"
    # Prediction of the head: the chunk itself, or its orthonormal DCT-II over the horizon.
    action_representation: Literal["time", "dct"] = "time"
    # Function evaluations per plan.
    sampling_steps: int = 1
    # Folder of the demonstrations it was trained on, or the stats.json in it. Needed unless the checkpoint itself
    # holds `normalizer.*` tensors.
    stats: Path | None = None
    # Beginning of the tensor names of the head, if the file holds several heads.
    prefix: str | None = None
    # Print the tree of tensors and stop.
    inspect: bool = False


def find_head(checkpoint: Checkpoint, prefix: str | None) -> dict[str, str]:
    """Find the tensors of the head: name within the head -> name in the file.

    Raises:
        UserError: there is no head, or more than one.
    """
    paths = unwrapped_paths(checkpoint.tensors, prefix)
    pattern = re.compile(r"((?:.*\.)?)cond_obs_emb\.weight")
    prefixes = [match.group(1) for path in paths if (match := pattern.fullmatch(path))]
    if not prefixes:
        raise UserError(f"{checkpoint.path} holds no IMF-AttnRes head (cond_obs_emb.weight); see --inspect")
    if len(prefixes) > 1:
        raise UserError(f"{checkpoint.path} holds several heads ({', '.join(prefixes)}); choose one with --prefix")
    (found,) = prefixes
    own = [path for path in paths if path.startswith(found) and not STATISTIC.fullmatch(path)]
    return {path.removeprefix(found): paths[path] for path in own}


def read_statistics(args: Args, checkpoint: Checkpoint, report: Report) -> dict[str, dict[str, Any]]:
    """Read statistics for the normalizers: from the checkpoint, or from --stats.

    Raises:
        ArgumentError: neither has them, or they are of another task.
        UserError: the file that --stats names is missing or damaged, or the checkpoint has two of one kind.
    """
    if args.stats is not None:
        folder = args.stats if args.stats.is_dir() else args.stats.parent
        require(args.stats in (folder, folder / FILE), f"--stats {args.stats} is no folder of demonstrations or {FILE}")
        statistics = statistics_of(folder)
        require(
            statistics.task == args.task,
            f"--stats {args.stats} is of task {statistics.task}, the policy of task {args.task}; give the right one",
        )
        report.notes.append(f"statistics: from {folder / FILE}")
        return statistics.arrays
    found: dict[str, dict[str, Any]] = {}
    for name, tensor in checkpoint.tensors.items():
        if match := STATISTIC.fullmatch(without_wrappers(name)):
            if tensor.dtype not in DTYPES:
                raise UserError(f"{checkpoint.path}: {name} has type {tensor.dtype}, which is not read; give --stats")
            values, moments = tensor.read(), found.setdefault(match.group(1), {})
            if not np.array_equal(moments.setdefault(match.group(2), values), values):
                raise UserError(f"{checkpoint.path} holds two different statistics ({name} and another); give --stats")
            report.used[name] = f"statistics {match.group(1)} {match.group(2)}"
    require(
        "action" in found,
        f"{checkpoint.path} holds no statistics of its demonstrations; give --stats the stats.json it was trained with",
    )
    report.notes.append("statistics: from the checkpoint")
    return found


def convert(args: Args) -> Report:
    """Convert one checkpoint.

    Raises:
        ArgumentError: an argument cannot be used.
        UserError: the file is damaged, does not fit, or the output folder is taken. Nothing was written.
    """
    require(args.out is not None, "--out is missing: name the run folder that receives the policy")
    assert args.out is not None
    checkpoint = open_checkpoint(args.checkpoint)
    report = Report(checkpoint)
    names = find_head(checkpoint, args.prefix)
    tensors = {name: checkpoint.tensors[source] for name, source in names.items()}
    given = {name: getattr(args, name) for name in FROM_CONFIG if getattr(args, name) is not None}
    sizes = read_sizes(given, tensors, report)
    encoder = LewmEncoderConfig(args.lewm, args.fusion, args.image_size) if args.lewm else StateEncoderConfig()
    config = TrainConfig(
        task=args.task,
        out=args.out,
        policy=replace(
            sizes,
            encoder=encoder,
            objective=ImfConfig(action_representation=args.action_representation),
            normalization=args.normalization,
            sampling_steps=args.sampling_steps,
        ),
        # The checkpoint holds one set of weights.
        optimizer=OptimizerConfig(ema_decay=0.0),
    )
    statistics = read_statistics(args, checkpoint, report)
    write_policy(args.out, config, names, statistics, report)
    return report


def write_policy(
    out: Path,
    config: TrainConfig,
    names: Mapping[str, str],
    statistics: Mapping[str, Mapping[str, Any]],
    report: Report,
) -> None:
    """Build the policy, load the weights into it and write the run folder, which appears complete or not at all.

    Args:
        out: new folder, or one that holds this same conversion, which then stays as it is.
        config: of the policy.
        names: name within the head -> name in the file.
        statistics: see `Policy.set_statistics`.
        report: receives the tensors that do not fit.

    Raises:
        ArgumentError: the head's condition is not the one of the task.
        UserError: the tensors do not fit, or `out` is taken or cannot be written.
    """
    # The simulator and the training code take seconds to import; arguments are checked before.
    from imf_jax.checkpoints import CheckpointMeta
    from imf_jax.models.encoders.torch_names import load_torch_state, torch_slots
    from imf_jax.models.networks.attnres import AttnResHead
    from imf_jax.models.policy import build_policy, encoder_identity
    from imf_jax.sim.tasks import get_task
    from imf_jax.training.saved_state import save_checkpoint
    from imf_jax.training.state import initial_state

    tensors = report.checkpoint.tensors
    task = get_task(config.task)
    spaces, env_state_dim = task.robot.spaces, task.env_state_dim
    policy = build_policy(config, spaces, env_state_dim)
    head = policy.head
    assert isinstance(head, AttnResHead)
    condition = tensors[names["cond_obs_emb.weight"]].shape[-1]
    what = "robot and scene state" if policy.frozen_encoder is None else "LEWM embedding and robot state"
    require(
        condition == policy.conditioning.dim,
        f"the head is conditioned on {condition} channels per step, but {what} of task {config.task} have "
        f"{policy.conditioning.dim}; a head that sees through LEWM needs the right --lewm FOLDER, others none",
    )
    state = {name: tensors[source].read() for name, source in names.items() if tensors[source].is_floating}
    # A tensor that is not of floating point is never a weight, and matters only under the name of one.
    report.mismatched += [
        f"{names[name]}: {tensors[names[name]].describe()} in the file, expected {' or '.join(FLOATING)}"
        for name in torch_slots(head)
        if name in names and name not in state
    ]
    result = load_torch_state(head, state)
    report.missing += [name for name in result.missing if name not in names]
    report.unexpected += [names[name] for name in result.unexpected]
    report.mismatched += result.mismatched
    report.used |= {names[name]: name for name in state if name not in result.unexpected}
    report.require_complete()
    broken = [name for name, value in state.items() if not np.isfinite(np.asarray(value, np.float32)).all()]
    if broken:
        raise UserError(f"{report.checkpoint.path} is no usable network: NaN or infinity in {', '.join(broken)}")
    policy.set_statistics(statistics)

    content = json_bytes({**report.to_json(), "config": {**to_dict(config), "out": str(out)}})
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        if (out / REPORT_FILE).is_file() and (out / REPORT_FILE).read_bytes() == content:
            report.notes.append("the folder held this conversion already and stays as it is")
            return
        raise UserError(f"--out {out} is taken; choose a new folder")
    step = report.checkpoint.root.get("global_step", 0) if isinstance(report.checkpoint.root, dict) else 0
    meta = CheckpointMeta(
        step=step if type(step) is int and step >= 0 else 0,
        task=config.task,
        env_state_dim=env_state_dim,
        weights="newest",
        data_sha256="",
        validation=None,
        files={},
        encoder=encoder_identity(policy),
        robot=spaces.to_json(),
    )
    try:
        with atomic_folder(out) as run:
            save_checkpoint(run, *initial_state(policy, config), config, meta)
            write_bytes(run / "config.json", json_bytes(to_dict(config)))
            write_bytes(run / REPORT_FILE, content)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}); choose another --out") from error


def main() -> None:
    """Parse the command line and convert."""
    args = tyro.cli(Args, description=__doc__)
    if args.inspect:
        inspect(open_checkpoint(args.checkpoint))
        return
    with problems_on_stderr():
        report = convert(args)
    print_report(args.out, report)
