"""Command lines of the form `script.py PRESET [flags]`: the flags override single values of the preset."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import tyro

from imf_jax.config import RunConfig
from imf_jax.errors import EXIT_OK, ArgumentError
from imf_jax.presets import load_preset, preset_description, preset_path, preset_paths

Config = TypeVar("Config", bound=RunConfig)


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
        name, flags = arguments[0], arguments[1:]
        return tyro.cli(
            self.kind,
            default=load_preset(name, self.directory, self.kind),
            args=flags,
            prog=f"{self.script} {name}",
            description=preset_description(preset_path(name, self.directory)),
            # The preset chooses the kind of encoder; flags change its settings.
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
