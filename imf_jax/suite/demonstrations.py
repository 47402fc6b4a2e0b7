"""Work that arms share: demonstrations, and what frozen encoders make of their pictures. Each is done once."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imf_jax.config import (
    CollectConfig,
    EfficientNetEncoderConfig,
    LewmEncoderConfig,
    TrainConfig,
    from_dict,
    require,
    to_dict,
)
from imf_jax.errors import ArgumentError, UserError
from imf_jax.settings_file import require_known
from imf_jax.sim.tasks import get_task
from imf_jax.suite.runs import Run
from imf_jax.suite.settings import as_flag

FLAGS = tuple(field.name for field in dataclasses.fields(CollectConfig) if field.name not in ("out", "task"))


def collection_of(
    layers: Sequence[Any], config: TrainConfig, where: str
) -> tuple[CollectConfig, None] | tuple[None, Path | None]:
    """The demonstrations of an arm.

    Args:
        layers: what is said about them, in the order in which it counts: a number of episodes, flags of `collect.py`, a
            folder, or None.
        config: of the arm; the pictures that its encoder reads are collected too.
        where: for messages.

    Returns:
        what to collect; or the folder that is named, None for the one of the preset.

    Raises:
        ArgumentError: a flag is not known, or a value cannot work.
    """
    flags: dict[str, Any] = {}
    folder: Path | None = None
    for layer in layers:
        if isinstance(layer, str):
            flags, folder = {}, Path(layer)
        elif layer is not None:
            given = layer if isinstance(layer, dict) else {"episodes": layer}
            given = {str(key).replace("-", "_"): value for key, value in given.items()}
            require_known(given, FLAGS, f"{where}: demonstrations")
            flags, folder = flags | given, None
    if not flags:
        return None, folder
    encoder = config.policy.encoder
    if encoder.cameras:
        flags = {"cameras": list(encoder.cameras), "image_size": encoder.image_size} | flags
    try:
        return from_dict(CollectConfig, {"task": config.task, **flags}), None
    except UserError as error:
        raise ArgumentError(f"{where}: demonstrations: {error}") from None


class Collections:
    """The shared runs of a suite.

    Args:
        folder: receives the demonstrations.

    Attributes:
        runs: in the order in which they were asked for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Run] = {}
        self.runs: list[Run] = []

    def run_for(self, config: CollectConfig) -> Run:
        """The run that collects these demonstrations, for all arms that learn from them."""
        settings = to_dict(config)
        key = json.dumps(settings, sort_keys=True)
        if key not in self._known:
            name = f"{get_task(config.task).name}-{config.episodes}"
            same = sum(run.kind == "demonstrations" and run.folder.name.startswith(name) for run in self.runs)
            folder = self._folder / (f"{name}-{same + 1}" if same else name)
            default = to_dict(CollectConfig())
            changed = {flag: value for flag, value in settings.items() if value != default[flag] or flag == "task"}
            flags = [word for flag, value in changed.items() for word in as_flag(flag, value)]
            self._add(
                key,
                Run(
                    f"collect {folder.name}", "demonstrations", folder, (*flags, "--out", str(folder)), settings,
                    total=config.episodes,
                ),
            )  # fmt: skip
        return self._known[key]

    def with_features(self, flags: tuple[str, ...], config: TrainConfig, needs: tuple[str, ...]) -> tuple[str, ...]:
        """What a training needs: demonstrations, and the cached features of its frozen encoder if it has one.

        Args:
            flags: of `train.py`, without folders.
            config: of the training.
            needs: what has to be done before the encoder can read its pictures.
        """
        encoder = config.policy.encoder
        if not isinstance(encoder, LewmEncoderConfig | EfficientNetEncoderConfig):
            return needs
        settings: Mapping[str, Any] = {"data": str(config.data), "encoder": to_dict(config.policy)["encoder"]}
        key = json.dumps(settings, sort_keys=True)
        if key not in self._known:
            number = sum(run.kind == "features" for run in self.runs) + 1
            run_flags = (*flags, "--data", str(config.data))
            self._add(key, Run(f"features {number}", "features", config.data, run_flags, settings, needs))
        return (*needs, self._known[key].name)

    def _add(self, key: str, run: Run) -> None:
        self._known[key] = run
        self.runs.append(run)


def missing(configs: Sequence[TrainConfig], collected: Sequence[bool]) -> list[str]:
    """What must be there before a suite can run and is not, one line each.

    Args:
        configs: of the arms.
        collected: of each, whether the suite collects its demonstrations.
    """
    from imf_jax.data.episodes import list_episodes
    from imf_jax.models.encoders.efficientnet import load

    lines: dict[str, None] = {}
    for config, own in zip(configs, collected, strict=True):
        encoder = config.policy.encoder
        try:
            if not own:
                list_episodes(config.data)
            if isinstance(encoder, EfficientNetEncoderConfig):
                load(encoder.stride)
            if isinstance(encoder, LewmEncoderConfig):
                require(
                    encoder.weights.is_dir(),
                    f"there is no encoder {encoder.weights}; make it with converters/lewm.py or scripts/pretrain.py",
                )
        except UserError as error:
            lines[str(error)] = None
    return list(lines)
