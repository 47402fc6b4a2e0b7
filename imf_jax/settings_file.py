"""Files of settings that users write, in YAML or JSON: plain types only, no repeated keys, mistyped names corrected."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from imf_jax.config import nearest_known, require
from imf_jax.errors import UserError


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, which builds plain types only; a key that is given twice is refused."""


def _unique_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    def build(part: yaml.Node) -> Any:
        return loader.construct_object(part, deep=True)

    return _without_repetition([(build(key), build(value)) for key, value in node.value])


def _without_repetition(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    names = [key for key, _ in pairs]
    repeated = sorted({str(name) for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated)} is given twice")
    return dict(pairs)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
# YAML 1.1 takes 1e-3 for a text, because it has no point.
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_settings(path: Path, what: str) -> Any:
    """Read a file of settings.

    Args:
        path: the file; its suffix gives the format (`.json`, else YAML).
        what: what it is, for messages, such as `--jobs`.

    Returns:
        its content, of plain types.

    Raises:
        UserError: the file cannot be read, is no YAML or JSON, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {what} {path} ({getattr(error, 'strerror', None) or error})") from None
    try:
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_without_repetition)
        return yaml.load(text, _UniqueKeys)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{what} {path} cannot be understood: {' '.join(str(error).split())}") from None


def require_known(given: Iterable[Any], known: Sequence[str], where: str) -> None:
    """Refuse names that are not known, by an `ArgumentError` that names the nearest one that is."""
    for name in given:
        require(name in known, f"{where}: {name!r} is not known{nearest(name, known)}")


def nearest(name: Any, known: Sequence[str]) -> str:
    """End of a message about an unknown name: the nearest known one, or all of them."""
    return f"; {nearest_known(str(name), sorted(known))}"
