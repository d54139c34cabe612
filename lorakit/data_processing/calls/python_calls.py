"""Calls that an answer writes as Python does, as ToolACE has them: ``[Get Weather(city="Oslo"), now()]``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from lorakit.data_processing.calls.tool_calls import as_json
from lorakit.data_processing.example import ToolCall

_STRINGS_OR_BRACKETS = re.compile(r"\"(?:[^\"\\]|\\.)*+\"?|'(?:[^'\\]|\\.)*+'?|[()\[\]{},]", re.DOTALL)
_CALL = re.compile(r"\s*([^\s()\[\]{},'\"=](?:[^()\[\]{},'\"=]*[^\s()\[\]{},'\"=])?)\s*\((.*)\)\s*", re.DOTALL)
_CONSTANTS = {"true": True, "false": False, "null": None}


def calls_as_python(text: str) -> tuple[ToolCall, ...]:
    """Read an answer that is nothing but calls; none where it is anything else."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith(")]")):
        return ()
    found = [_call(one) for one in _split(text[1:-1])]
    calls = tuple(call for call in found if call is not None)
    return calls if len(calls) == len(found) else ()


def _split(text: str) -> Iterator[str]:
    """Cut at commas outside brackets and strings."""
    depth = begin = 0
    for found in _STRINGS_OR_BRACKETS.finditer(text):
        if found[0] in ("(", "[", "{"):
            depth += 1
        elif found[0] in (")", "]", "}"):
            depth -= 1
        elif found[0] == "," and not depth:
            yield text[begin : found.start()]
            begin = found.end()
    yield text[begin:]


def _call(text: str) -> ToolCall | None:
    found = _CALL.fullmatch(text)
    if found is None:
        return None
    try:
        call = ast.parse(f"called({found[2]})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return None
        arguments = {one.arg: ast.literal_eval(_Constants().visit(one.value)) for one in call.keywords}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    names = {name: value for name, value in arguments.items() if name is not None}
    return ToolCall(found[1], as_json(names)) if len(names) == len(call.keywords) else None


class _Constants(ast.NodeTransformer):
    """Reads JSON's constants, which Python writes otherwise."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Put the value in the place of its name."""
        return ast.Constant(_CONSTANTS[node.id]) if node.id in _CONSTANTS else node
