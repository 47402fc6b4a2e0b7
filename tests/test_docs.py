"""What the documentation names is there: files, flags, modules, messages; and the code that it shows runs."""

import ast
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
SOURCES = [path for folder in ("imf_jax", "scripts", "converters") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_named_things_exist(page: Path) -> None:
    text = page.read_text()
    files = re.findall(r"\b(?:imf_jax|scripts|configs|converters|tests|examples|docs)/[\w/-]+\.\w+", text)
    assert [name for name in files if "NAME" not in name and not (ROOT / name).is_file()] == []
    for name in re.findall(r"(?:`|::: )(imf_jax\.[\w.]+)", text):
        pkgutil.resolve_name(name)
    for module, names in re.findall(r"from (imf_jax[\w.]*) import ([\w, ]+)", text):
        for name in names.split(", "):
            pkgutil.resolve_name(f"{module}.{name}")


def test_named_flags_exist() -> None:
    known = set(
        re.findall(
            r"\w+",
            "".join(
                path.read_text()
                for path in SOURCES
                if path.parts[-2] in ("config", "scripts", "commands", "benchmarks", "conversion")
            ),
        )
    )
    for page in PAGES:
        for flag in re.findall(r"(?<![\w-])--([a-z][a-z._-]+)", page.read_text()):
            if "_" in flag:  # of LeRobot's commands
                continue
            assert flag.split(".")[-1].replace("-", "_") in known | {"help"}, f"{page} names --{flag}"


def test_messages_under_trouble_are_those_of_the_code() -> None:
    nodes = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    strings = [node.value for node in constants if isinstance(node.value, str)]
    cells = re.findall(r"^\| ([^|]*) \|", (ROOT / "docs/trouble.md").read_text(), re.MULTILINE)
    messages = [words for cell in cells for words in re.findall(r"`([^`]*)`", cell) if re.match(r"\w.* ", words)]
    assert len(messages) > 30
    assert [words for words in messages if not any(words in string for string in strings)] == []


def test_the_recorder_of_the_documentation_runs(tmp_path: Path) -> None:
    records = runpy.run_path(str(ROOT / "docs/extend/object_path.py"))["main"](tmp_path)
    assert len(records) == 4
    for record in records:
        assert (tmp_path / record.artifacts["objects"]).is_file()
