"""Command lines of the form `script.py PRESET [flags]`: the flags override single values of the preset."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import tyro

from imf_jax.config import KINDS, RunConfig, TrainConfig, with_kind
from imf_jax.errors import EXIT_OK, ArgumentError
from imf_jax.presets import load_preset, preset_description, preset_path, preset_paths

Config = TypeVar("Config", bound=RunConfig)


KINDS_HELP = "Other kinds of policies, with settings of their own (add --help to see them): " + "; ".join(
    f"--policy.{group} {'|'.join(kinds)}" for group, kinds in KINDS.items()
)


def choose_kinds(config: TrainConfig, flags: Sequence[str]) -> tuple[TrainConfig, list[str]]:
    """Follow the flags that choose what the parts of a policy are, `--policy.objective flow`.

    Returns:
        the configuration with parts of these kinds, and the other flags.

    Raises:
        ArgumentError: there is no such kind, or it does not go with the preset.
    """
    groups, rest, remaining = {f"--policy.{group}": group for group in KINDS}, [], iter(flags)
    for given in remaining:
        name, _, value = given.partition("=")
        if name not in groups:
            rest.append(given)
            continue
        kind = value or next(remaining, "")
        config = replace(config, policy=with_kind(config.policy, groups[name], kind))
    return config, rest


@dataclass(frozen=True)
class PresetCommand(Generic[Config]):
    """A script that runs presets.

    Attributes:
        script: its file name in `scripts/`.
        summary: what it does, one sentence.
        kind: of configuration.
        directory: of its presets.
    """

    script: str
    summary: str
    kind: type[Config]
    directory: Path

    def parse(self, arguments: Sequence[str]) -> Config:
        """Parse a command line to a configuration; prints help and exits if that is requested.

        Raises:
            ArgumentError: no preset or an unknown one is named, or a value cannot work.
        """
        usage = f"python scripts/{self.script} PRESET [flags]"
        if arguments and arguments[0] in ("-h", "--help"):
            print(self.overview())
            raise SystemExit(EXIT_OK)
        if not arguments or arguments[0].startswith("-"):
            names = ", ".join(preset_paths(self.directory))
            raise ArgumentError(f"name a preset first: {usage}; presets are: {names}")
        name = arguments[0]
        description = preset_description(preset_path(name, self.directory))
        config: Any = load_preset(name, self.directory, self.kind)
        flags = list(arguments[1:])
        if isinstance(config, TrainConfig):
            config, flags = choose_kinds(config, flags)
            description = f"{description}\n\n{KINDS_HELP}"
        return tyro.cli(
            self.kind,
            default=config,
            args=flags,
            prog=f"{self.script} {name}",
            description=description,
            # The kinds of encoder, network and objective are chosen by now; flags change their settings.
            config=(tyro.conf.AvoidSubcommands,),
        )

    def overview(self) -> str:
        """Text of `--help` before a preset is named."""
        lines = [f"usage: python scripts/{self.script} PRESET [flags]", "", f"{self.summary} Presets:", ""]
        paths = preset_paths(self.directory)
        width = max(map(len, paths), default=0)
        lines += [f"  {name:<{width}} {preset_description(path).splitlines()[0]}" for name, path in paths.items()]
        flags = f"All flags, with units and defaults: python scripts/{self.script} PRESET --help"
        return "\n".join([*lines, "", flags])
