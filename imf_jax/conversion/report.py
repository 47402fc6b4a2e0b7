"""Report of a conversion: tensors found, used and missing; and the folder that it writes."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imf_jax.errors import UserError
from imf_jax.files import atomic_folder, write_bytes
from imf_jax.weight_files.tensors import StoredTensor
from imf_jax.weight_files.torch_file import Checkpoint

REPORT_FILE = "report.json"


class DoesNotFitError(UserError):
    """A checkpoint whose tensors are not those of the network.

    Attributes:
        problems: one line per tensor.
    """

    def __init__(self, message: str, problems: list[str]) -> None:
        super().__init__(message)
        self.problems = problems


@dataclass
class Report:
    """Report on the tensors of a checkpoint, matched with those of a network.

    Attributes:
        checkpoint: the source.
        used: tensor in the file -> weight that has its values.
        missing: tensors that the network needs and the file lacks.
        unexpected: tensors inside the network's part of the file that the network does not have.
        mismatched: "name: what is wrong with its shape or dtype".
        notes: facts that were inferred instead of read.
    """

    checkpoint: Checkpoint
    used: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ignored(self) -> list[str]:
        """Tensors outside the network's part of the file."""
        return [name for name in self.checkpoint.tensors if name not in self.used and name not in self.unexpected]

    def summary(self) -> str:
        """Summary of the counts in one line."""
        counts = {
            "found": len(self.checkpoint.tensors),
            "used": len(self.used),
            "ignored": len(self.ignored),
            "missing": len(self.missing),
            "unexpected": len(self.unexpected),
            "mismatched": len(self.mismatched),
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items())

    def require_complete(self) -> None:
        """Check that every tensor was found and fits.

        Raises:
            DoesNotFitError: one was not; the error lists all problems.
        """
        lists = {"missing": self.missing, "unexpected": self.unexpected, "mismatched": self.mismatched}
        problems = [f"{what}: {name}" for what, names in lists.items() for name in names]
        if problems:
            path = self.checkpoint.path
            raise DoesNotFitError(
                f"{path} does not fit ({self.summary()}), first {problems[0]}; nothing was written, see --inspect",
                problems,
            )

    def to_json(self) -> dict[str, Any]:
        """Convert the whole report to plain types."""
        source = self.checkpoint
        return {
            "source": {"path": str(source.path), "sha256": source.sha256, "kind": source.kind},
            "summary": self.summary(),
            "notes": self.notes,
            "found": {name: tensor.describe() for name, tensor in source.tensors.items()},
            "used": self.used,
            "ignored": self.ignored,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mismatched": self.mismatched,
            "classes_not_loaded": source.placeholders,
        }


def json_bytes(values: Any) -> bytes:
    """Serialise to indented JSON, the same bytes for the same values."""
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def write_folder(out: Path, files: Mapping[str, bytes], report: Report) -> None:
    """Write a converted network: all files or none.

    Converting the same checkpoint again into the same folder is allowed and leaves the same bytes.

    Args:
        out: new or empty folder, or one that holds an earlier conversion of the same checkpoint.
        files: relative name -> content; the last one completes the folder.
        report: written as `report.json`.

    Raises:
        UserError: `out` holds anything else, or cannot be written.
    """
    check_output(out, files, report.checkpoint.sha256)
    contents = {REPORT_FILE: json_bytes(report.to_json()), **files}
    try:
        with atomic_folder(out) as folder:
            for name, content in contents.items():
                write_bytes(folder / name, content)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}); choose another --out") from error


def check_output(out: Path, files: Mapping[str, Any], source_sha256: str) -> None:
    """Refuse an output folder whose content this conversion would mix with or replace.

    Raises:
        UserError: see above.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    present = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    if not present:
        return
    try:
        earlier = json.loads((out / REPORT_FILE).read_text())["source"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--out {out} holds other files; choose a new folder") from None
    if earlier != source_sha256 or not present <= {*files, REPORT_FILE}:
        raise UserError(f"--out {out} holds the conversion of another checkpoint; choose a new folder")


def key_tree(tensors: Mapping[str, StoredTensor]) -> str:
    """Format the tensors as an indented tree of their dotted names, with dtype and shape at the leaves."""
    root: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *folders, leaf = name.split(".")
        node = root
        for folder in folders:
            node = node.setdefault(f"{folder}.", {})
        node[leaf] = tensor

    def lines(node: Mapping[str, Any], indent: str) -> list[str]:
        found = []
        for name, child in node.items():
            while isinstance(child, dict) and len(child) == 1:
                ((only, child),) = child.items()
                name += only
            if isinstance(child, StoredTensor):
                found.append(f"{indent}{name}  {child.describe()}")
            else:
                found += [f"{indent}{name}", *lines(child, indent + "  ")]
        return found

    return "\n".join(lines(root, ""))


def inspect(checkpoint: Checkpoint) -> None:
    """Print the content of a checkpoint."""
    lines = [f"{checkpoint.path}: {checkpoint.kind}, {len(checkpoint.tensors)} tensors, sha256 {checkpoint.sha256}"]
    lines.append(key_tree(checkpoint.tensors))
    if checkpoint.placeholders:
        lines.append("named in the file and neither imported nor run: " + ", ".join(checkpoint.placeholders))
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:  # the reader, for example `head`, has seen enough; keep the exit from complaining too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_report(out: Path | None, report: Report) -> None:
    """Print the folder of a conversion and its report."""
    print(f"{out}: {report.summary()}")
    for note in report.notes:
        print(f"  {note}")


@contextmanager
def problems_on_stderr() -> Iterator[None]:
    """Print every tensor that does not fit to stderr, before the error itself is raised further."""
    try:
        yield
    except DoesNotFitError as error:
        print("\n".join(error.problems), file=sys.stderr)
        raise
