"""For the API pages: the comment above a field of a configuration, which is its `--help`, becomes its docstring."""

import ast
from typing import Any

from griffe import Attribute, Docstring, Extension


class FieldComments(Extension):
    """Takes comment lines directly above an attribute of a class for its docstring, if it has none."""

    def on_attribute_instance(self, *, node: ast.AST, attr: Attribute, **kwargs: Any) -> None:
        if attr.docstring or not attr.parent.is_class or not attr.lineno:
            return
        lines = []
        for line in reversed(attr.lines_collection[attr.filepath][: attr.lineno - 1]):
            if not line.strip().startswith("# "):
                break
            lines.insert(0, line.strip().removeprefix("# "))
        if lines:
            attr.docstring = Docstring("\n".join(lines), lineno=attr.lineno - len(lines), parent=attr)
