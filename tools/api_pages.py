"""The content of the API page for each name: an extension of griffe, which `make docs` uses (mkdocs.yml).

Puts a table of parameters and an example from docs/api-notes.md under each docstring, and replaces private names of
default values by the values. The tests run the examples, and compare the tables with the signatures.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import griffe

NOTES = Path(__file__).resolve().parents[1] / "docs" / "api-notes.md"


def notes() -> dict[str, str]:
    """The text under each heading, by the name in it."""
    text = re.sub(r"^<!-- .*? -->\n", "", NOTES.read_text(encoding="utf-8"), flags=re.MULTILINE)
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)[1:]
    return {name: part.strip() for name, part in zip(parts[::2], parts[1::2])}


class Notes(griffe.Extension):
    """See above."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Change the objects that griffe found, once all of them are loaded."""
        for name, text in notes().items():
            found: Any = pkg[name.partition(".")[2]]
            found = found.final_target if found.is_alias else found
            if found.docstring is None:
                found.docstring = griffe.Docstring("", parent=found)
            found.docstring.value = f"{found.docstring.value}\n\n{text}"
        _tidy(pkg)


def _tidy(module: Any) -> None:
    for member in list(module.members.values()):
        if member.is_alias:
            continue
        if member.is_function:
            for parameter in member.parameters:
                parameter.default = _value(member, str(parameter.default)) or parameter.default
        if member.is_module or member.is_class:
            _tidy(member)


def _value(function: Any, default: str) -> str:
    """The number or text that an upper-case name stands for; empty for any other name."""
    if re.fullmatch(r"_?[A-Z][A-Z_]+", default):
        module: Any = function.module
        try:
            constant = module[default]
            constant = constant.final_target if constant.is_alias else constant
            return str(eval(compile(ast.parse(str(constant.value), mode="eval"), "<default>", "eval"), {}))
        except Exception:
            return ""
    return ""
