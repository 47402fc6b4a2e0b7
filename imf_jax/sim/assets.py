"""Files that ship in other packages (models, meshes, weights): found where those are, recognised by their content."""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from imf_jax.errors import ArgumentError


def asset_folder(package: str, folder: str, install: str) -> Path:
    """Folder of assets in an installed package, which is found and not imported.

    Args:
        package: its name in Python.
        folder: the folder, relative to the package.
        install: how to install it, for the message.

    Raises:
        ArgumentError: the package is not installed, or has no such folder.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ArgumentError(f"the package {package}, which holds files that this needs, is not installed: {install}")
    path = Path(next(iter(found.submodule_search_locations))) / folder
    if not path.is_dir():
        raise ArgumentError(f"{path} is missing in the package {package}; install it again: {install}")
    return path


def require_content(folder: Path, names: tuple[str, ...], sha256: str, install: str) -> None:
    """Refuse assets that are not those that this version was made with.

    Args:
        folder: of the assets.
        names: the files that are used.
        sha256: of their contents, one after the other.
        install: how to install the right ones, for the message.

    Raises:
        ArgumentError: a file is missing, or its content is another.
    """
    for name in names:
        if not (folder / name).is_file():
            raise ArgumentError(f"{folder / name} is missing; install the package again: {install}")
    found = content_hash(tuple(folder / name for name in names))
    if found != sha256:
        raise ArgumentError(
            f"the files in {folder} are not those that this version knows (sha256 {found[:12]}, expected "
            f"{sha256[:12]}); install the right ones: {install}"
        )


@cache
def content_hash(paths: tuple[Path, ...]) -> str:
    """SHA-256 of the contents of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
