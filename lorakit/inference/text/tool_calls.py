"""Calls in what a model has answered: each family has its own way, and is known by what its template writes."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.data_processing import ChatFormat, Message, ToolCall
from lorakit.data_processing.calls.blocks import Block, Marks, outside
from lorakit.data_processing.calls.tool_calls import as_json, read_tools
from lorakit.data_processing.example import UnusableError
from lorakit.data_processing.templates.chat_template import TemplateError
from lorakit.errors import SettingsError
from lorakit.incoming import fault_of_file, read_whole
from lorakit.outgoing import strict_json

_Found = tuple[str, Any]  # the function's name, and its arguments as an object or JSON text
_ARGUMENTS = ("arguments", "parameters")
_UNQUOTED_KEY = re.compile(r"(?<=[{,])([^{}\[\],:]+):")
_XML_CALL, _XML_ARGUMENT = (
    Marks.compile(r"<function=([^<>\n]+)>", "</function>"),
    Marks.compile(r"<parameter=([^<>\n]+)>\n?", r"\n?</parameter>"),
)
_NAMED_XML_CALL, _NAMED_XML_ARGUMENT = (
    Marks.compile(r'<\w+:invoke name="([^"]+)">', r"</\w+:invoke>"),
    Marks.compile(r'<\w+:parameter name="([^"]+)">', r"</\w+:parameter>"),
)
_TAGGED_ARGUMENT = Marks.compile("<arg_key>", "</arg_value>")


@dataclass(frozen=True)
class _Style:
    """One family's way.

    Attributes:
        marks: Of what a call, or a list of them, stands in, which `read` reads.
        read: From such a block and the types of arguments by function to calls.
    """

    marks: Marks
    read: Callable[[str, Mapping[str, Any]], Iterator[_Found]]


def _json_calls(text: str, _: Mapping[str, Any]) -> Iterator[_Found]:
    """``{"name": ..., "arguments": {...}}``, one or a list."""
    value = json.loads(text)
    for call in value if isinstance(value, list) else [value]:
        name = call.get("name", call.get("tool_name"))
        yield name, next((call[key] for key in _ARGUMENTS if key in call), None)


def _named_json(text: str, _: Mapping[str, Any]) -> Iterator[_Found]:
    """A name, anything that is no brace, and the arguments."""
    before, _brace, _rest = text.partition("{")
    name = re.search(r"\w[\w.-]*", before)
    if name is None:
        raise ValueError("names no function")
    yield name[0], json.loads(text[len(before) : text.rfind("}") + 1])


def _xml_calls(text: str, types: Mapping[str, Any]) -> Iterator[_Found]:
    """``<function=name><parameter=key>value</parameter></function>``."""
    for call in _XML_CALL.blocks(text):
        yield call.opening[1], _xml_arguments(_XML_ARGUMENT, call, types)


def _named_xml_calls(text: str, types: Mapping[str, Any]) -> Iterator[_Found]:
    """``<x:invoke name="name"><x:parameter name="key">value</x:parameter></x:invoke>``."""
    for call in _NAMED_XML_CALL.blocks(text):
        yield call.opening[1], _xml_arguments(_NAMED_XML_ARGUMENT, call, types)


def _xml_arguments(marks_of_one: Marks, call: Block, types: Mapping[str, Any]) -> dict[str, Any]:
    kinds = types.get(call.opening[1], {})
    found = ((one.opening[1], one.inner) for one in marks_of_one.blocks(call.inner))
    return {key: _typed(value, kinds.get(key)) for key, value in found}


def _unquoted_calls(text: str, _: Mapping[str, Any]) -> Iterator[_Found]:
    """``name{key:<|"|>value<|"|>,other:3}``."""
    name, brace, rest = text.partition("{")
    pieces = (brace + rest).split('<|"|>')
    pieces[::2] = [_UNQUOTED_KEY.sub(lambda key: f"{json.dumps(key[1])}:", one) for one in pieces[::2]]
    pieces[1::2] = [json.dumps(one) for one in pieces[1::2]]
    yield name, json.loads("".join(pieces))


def _key_value_calls(text: str, types: Mapping[str, Any]) -> Iterator[_Found]:
    """``name<arg_key>key</arg_key><arg_value>value</arg_value>``."""
    name = text.partition("<arg_key>")[0].strip()
    kinds = types.get(name, {})
    written = (re.split(r"</arg_key>\s*<arg_value>", one.inner, maxsplit=1) for one in _TAGGED_ARGUMENT.blocks(text))
    pairs = ((pair[0].strip(), pair[1]) for pair in written if len(pair) > 1)
    yield name, {key: _typed(value, kinds.get(key)) for key, value in pairs}


def _python_calls(text: str, _: Mapping[str, Any]) -> Iterator[_Found]:
    """``[name(key="value")]``."""
    listed = ast.parse(text.strip(), mode="eval").body
    for call in listed.elts if isinstance(listed, ast.List) else [listed]:
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("is not a call with named arguments")
        yield ast.unparse(call.func), {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}


def _typed(text: str, kind: Any) -> Any:
    """Read a value whose quotation marks are left out: text where the tool says so, else JSON where it is some."""
    if kind == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


_STYLES = (
    _Style(Marks.compile(r"<tool_call>\s*(?=\{)", r"(?<=\})\s*</tool_call>"), _json_calls),  # Hermes, Qwen 2.5 and 3
    _Style(Marks.compile(r"<tool_call>\s*(?=<function=)", "</tool_call>"), _xml_calls),  # Qwen 3.5, Nemotron 3
    _Style(Marks.compile("<tool_call>(?=[^<]*<(?:arg_key>|/tool_call>))", "</tool_call>"), _key_value_calls),  # GLM 4.5
    _Style(Marks.compile(r"<\|tool_call_start\|>", r"<\|tool_call_end\|>"), _python_calls),  # LFM 2
    _Style(Marks.compile(r"<\|tool_call>call:", r"<tool_call\|>"), _unquoted_calls),  # Gemma 4
    _Style(Marks.compile(r"<\w+:function_calls>", r"</\w+:function_calls>"), _named_xml_calls),  # Muse Glimmer
    _Style(
        Marks.compile("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "<｜tool▁call▁end｜>"), _named_json
    ),  # DeepSeek V3
    _Style(Marks.compile(r"\bto=functions\.(?=[\w.-])", r"(?<=\})(?=<\|call\|>|$)"), _named_json),  # gpt-oss
    _Style(Marks.compile(r"\[TOOL_CALLS\]\s*(?=\[)", r"(?<=\])(?=[^\]]*$)"), _json_calls),  # Mistral
    _Style(  # Mistral since 2025
        Marks.compile(r"\[TOOL_CALLS\]\s*(?=[\w.-]+\[ARGS\]\{)", r"(?<=\})(?=\[TOOL_CALLS\]|$)"), _named_json
    ),
    _Style(Marks.compile(r"<\|START_ACTION\|>\s*(?=\[)", r"(?<=\])\s*<\|END_ACTION\|>"), _json_calls),  # Command R
    _Style(Marks.compile(r"^\s*(?:<\|python_tag\|>)?(?=\{)", r"(?<=\})\s*$"), _json_calls),  # Llama 3.1 and 3.2
)
_KINDS = {"word": {"type": "string", "description": "d"}, "count": {"type": "integer", "description": "d"}}
_PROBE_TOOL = {
    "name": "probe_tool",
    "description": "d",
    "parameters": {"type": "object", "properties": _KINDS, "required": ["word", "count"]},
}
_PROBE = ToolCall("probe_tool", as_json({"word": "x y", "count": 3}), "abcdefghi")  # Mistral wants nine characters


@dataclass(frozen=True)
class Answer:
    """An answer taken apart.

    Attributes:
        text: What is said beside the calls.
        calls: In order.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()


class CallReader:
    """Reads the calls of one model's answers.

    Args:
        style: Of its family; None where it is not known, and an answer stays text.
    """

    def __init__(self, style: _Style | None) -> None:
        self._style = style

    @classmethod
    def of(cls, chat_format: ChatFormat) -> CallReader:
        """Find the style that reads back what the model's own template writes of a call."""
        tools = Message("tools", as_json([{"type": "function", "function": _PROBE_TOOL}]))
        conversation = [tools, Message("user", "q"), Message("assistant", "", tool_calls=(_PROBE,))]
        try:
            [turn] = chat_format.turns(conversation)
        except TemplateError:
            return cls(None)
        written = turn.answer.partition(chat_format.end_of_turn)[0]
        known = (style for style in _STYLES if same_calls(cls(style).read(written, tools.content).calls, [_PROBE]))
        return cls(next(known, None))

    @property
    def is_known(self) -> bool:
        """Whether calls can be read."""
        return self._style is not None

    def read(self, text: str, tools: str | None = None) -> Answer:
        """Take an answer apart; what is broken in it stays text.

        Args:
            text: With its control tokens, but for those that end it.
            tools: That could be called, as JSON.
        """
        if self._style is None:
            return Answer(text)
        types = _types(tools)
        calls: list[ToolCall] = []
        taken: list[Block] = []
        for block in self._style.marks.blocks(text):
            try:
                found = [_checked(name, arguments) for name, arguments in self._style.read(block.inner, types)]
            except (ValueError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError):
                continue
            calls += found
            taken.append(block)
        return Answer(outside(text, taken).strip(), tuple(calls)) if calls else Answer(text)


def _checked(name: Any, arguments: Any) -> ToolCall:
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise TypeError("is not a name with an object of arguments")
    return ToolCall(name, strict_json(arguments))


def _types(tools: str | None) -> dict[str, dict[str, Any]]:
    """Return the types of arguments by function."""
    types = {}
    for tool in json.loads(tools) if tools else []:
        function = tool.get("function", tool)
        parameters = function.get("parameters") or {}
        properties = parameters.get("properties", parameters) if isinstance(parameters, dict) else {}
        kinds = properties.items() if isinstance(properties, dict) else ()
        types[function["name"]] = {key: kind.get("type") for key, kind in kinds if isinstance(kind, dict)}
    return types


def same_calls(calls: Sequence[ToolCall], wanted: Sequence[ToolCall]) -> bool:
    """Tell whether calls have the same names and arguments, as values; calls side by side may stand in any order."""
    return Counter(map(_value, calls)) == Counter(map(_value, wanted))


def _value(call: ToolCall) -> str:
    """Write a call so that equal ones are equal: keys in order, and whole numbers without a fraction."""
    return call.name + json.dumps(_plain(json.loads(call.arguments)), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_tools_file(name: str) -> str | None:
    """Read the tools that ``--tools`` names.

    Raises:
        SettingsError: The file cannot be read, or holds something else.
    """
    if (fault := fault_of_file(name)) is not None:
        raise SettingsError(f"tools: {name}: {fault}", "name a JSON file with a list of tools")
    try:
        return read_tools(json.loads(read_whole(Path(name)).decode("utf-8-sig")))
    except (OSError, ValueError, RecursionError, UnusableError) as error:
        raise SettingsError(
            f"tools: {name}: is not a list of tools in JSON ({error})",
            'write [{"type": "function", "function": {"name": ..., "parameters": {...}}}]',
        ) from error
