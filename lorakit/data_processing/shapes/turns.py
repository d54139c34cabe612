"""The turns of a conversation, as OpenAI, ShareGPT, Anthropic and Gemini write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lorakit.data_processing.calls.tool_calls import as_json, calls_in_text, read_calls, results_in_text
from lorakit.data_processing.example import Message, ToolCall, UnusableError, shortened
from lorakit.data_processing.field_names import normal, read_name
from lorakit.data_processing.images import IMAGE_MARK
from lorakit.data_processing.ledger import Fields, is_empty, parsed_cell
from lorakit.incoming import has_half_character

_SPEAKERS: dict[str, tuple[str, ...]] = {
    "system": ("system", "developer", "系统"),
    "user": ("user", "human", "prompter", "用户"),
    "assistant": ("assistant", "gpt", "bot", "chatbot", "model", "chatgpt", "bing", "bard", "助手"),
    "tool": ("tool", "function", "observation", "function_response", "tool_response", "ipython"),
    "call": ("function_call", "tool_call"),
}
_ROLES = {word: speaker for speaker, words in _SPEAKERS.items() for word in words}
_SHOWN_ROLE = 40
_TEXT_PARTS = {None, "text", "input_text", "output_text"}
_REASONING_PARTS = {"thinking", "reasoning", "thought"}
_IMAGE_PARTS = {"image", "image_url", "input_image"}
# Question and answer in one turn, as Firefly, Belle's kin and Capybara have them.
_PAIRS = (("human", "assistant"), ("user", "assistant"), ("human", "bot"), ("input", "output"), ("question", "answer"))
_SPEAKERS_OF = {"a call": {"assistant"}, "reasoning": {"assistant"}, "the result of a call": {"user"}}
_TURNS_OF_TWO = [tuple(map(read_name, pair)) for pair in _PAIRS]
_A_TURN = 'a turn is {"role": "user", "content": "..."}, and an answer {"role": "assistant", "content": "..."}'
_TURNS_ELSE = f'write turns as {{"messages": [...]}}, where {_A_TURN}'
_OTHER_KINDS = {
    bool: 'write it as the text that is to be answered, such as "yes" or "no"',
    list: "write it as one text; where it is a whole column, pandas writes one object a row with to_json(FILE, "
    "orient='records', lines=True, force_ascii=False)",
    dict: f"name a field that is text, or {_TURNS_ELSE}",
}
_WHETHER = {"on", "off", "yes", "no", "true", "false", "none"}
_SWITCHES = {"weight": False, "loss": False, "train": False, "masked": True}  # whether it is turned around


@dataclass
class Draft:
    """A message that is being read, its pictures as its row has them; None for one that is named elsewhere."""

    message: Message
    pictures: list[Any] = field(default_factory=list)


def text_of(value: Any, name: str) -> str:
    """Return a field's text; numbers are text as they are written.

    Raises:
        UnusableError: It is empty, or not text.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        found = "null" if value is None else type(value).__name__
        raise UnusableError(f'"{name}" is not text (found: {found})', _OTHER_KINDS.get(type(value)))
    if isinstance(value, float) and not math.isfinite(value):
        raise UnusableError(f'"{name}" is not text (found: {value}); a cell may say so that it has none')
    if not (text := str(value)).strip():
        raise UnusableError(f'"{name}" is empty')
    if has_half_character(text):
        raise UnusableError(f'"{name}" holds half a character (an unpaired surrogate)')
    return text


def read_turns(fields: Fields, name: str, has_tools: bool) -> list[Draft]:
    """Read the turns that stand in one field of a row.

    Args:
        fields: Of the row.
        name: Of the field: a list of turns, or one as JSON text.
        has_tools: Whether the row has tools, so that calls in an answer's text are calls.
    """
    shown = fields.key(name)
    turns = parsed_cell(fields.take(name, "turns"))
    turns = [turns] if isinstance(turns, Mapping) and "role" in map(read_name, turns) else turns
    if not isinstance(turns, Sequence) or isinstance(turns, str | bytes):
        remedy = (
            f"where it is the question, name it: text_field: {shown}, and target_field: the answer's; or {_TURNS_ELSE}"
        )
        raise UnusableError(f'"{shown}" is not a list of turns', remedy)
    if is_list_of_texts(turns):
        if normal(shown) == "turns" and not fields.is_chosen(name):  # MT-Bench's are questions all
            raise UnusableError(
                f'"{shown}" holds texts of which nothing says who speaks',
                f"where question and answer follow each other, map_fields: {{{shown}: conversations}}",
            )
        return _texts_in_turn(turns, shown)
    drafts: list[Draft] = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping):
            raise UnusableError(f'"{shown}" turn {number} is not an object', _A_TURN)
        one = fields.inner(turn, f"{shown}[]")
        pair = next((pair for pair in _PAIRS if not one.has("role") and one.has(pair[0]) and one.has(pair[1])), None)
        place = f"{shown} turn {number}"
        drafts += _Turn(one, place, has_tools).read() if pair is None else _question_and_answer(one, *pair, place)
        one.close()
    return _joined_calls(drafts)


def _question_and_answer(turn: Fields, question: str, answer: str, place: str) -> list[Draft]:
    drafts = [Draft(Message("user", text_of(turn.take(question, "question"), place)))]
    if turn.has("system"):  # XTuner's
        drafts.insert(0, Draft(Message("system", text_of(turn.take("system", "system message"), place))))
    return [*drafts, Draft(Message("assistant", text_of(turn.take(answer, "answer"), place)))]


def _texts_in_turn(texts: Sequence[str], place: str) -> list[Draft]:
    """Read turns that are texts alone, question and answer in turn, as LIMA and UltraChat have them."""
    return [
        Draft(Message("assistant" if number % 2 == 0 else "user", text_of(text, f"{place} turn {number}")))
        for number, text in enumerate(texts, start=1)
    ]


def is_list_of_texts(value: Any) -> bool:
    """Tell question and answer in turn, each a text."""
    value = parsed_cell(value)
    return isinstance(value, list | tuple) and len(value) > 1 and all(isinstance(text, str) for text in value)


def are_turns(value: Any) -> bool:
    """Tell a list of turns with roles, or one as text."""
    if isinstance(value, str) and '"role"' not in value and "'role'" not in value:
        return False
    value = parsed_cell(value)
    if isinstance(value, Mapping):
        return "role" in map(read_name, value)
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_turn, value))


def _is_turn(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    names = {read_name(str(name)) for name in value}
    return "role" in names or any(names.issuperset(pair) for pair in _TURNS_OF_TWO)


def reasoning_in(fields: Fields) -> str | None:
    """Take what an answer thinks first; None where there is none, or where the field only says whether it does."""
    if not fields.has("reasoning"):
        return None
    name = fields.key("reasoning")
    value = parsed_cell(fields.values[name])
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _WHETHER):
        fields.take("reasoning", "whether the answer reasons, which it shows itself")
        return None
    value = value[0] if isinstance(value, list | tuple) and len(value) == 1 else fields.values[name]
    fields.take("reasoning", "reasoning of the answer")
    return text_of(value, name)


class _Turn:
    """One turn on its way to a message, or several (results side by side).

    Args:
        fields: Of the turn.
        place: For complaints.
        has_tools: Whether its row has tools.
    """

    def __init__(self, fields: Fields, place: str, has_tools: bool) -> None:
        self._fields = fields
        self._place = place
        self._has_tools = has_tools
        self._name: str | None = None
        self._texts: list[str] = []
        self._pictures: list[Any] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []
        self._results: list[Draft] = []

    def read(self) -> list[Draft]:
        """Return the messages of the turn."""
        role = self._fields.take("role", "who speaks")
        speaker = _ROLES.get(role.strip().lower()) if isinstance(role, str) else None
        if speaker is None:
            known = ", ".join(word for words in _SPEAKERS.values() for word in words)
            found = shortened(repr(role), _SHOWN_ROLE)
            raise UnusableError(f"{_quoted(self._place)} has the role {found}; known are {known}", _A_TURN)
        name = self._fields.take(
            "name", "called function" if speaker == "tool" else "who speaks, where the template has a place for names"
        )
        self._name = name if isinstance(name, str) and name else None
        is_trained = self._switch()
        key = next((key for key in ("content", "text") if key in self._fields), "content")
        content = self._fields.take(key, "text")
        if speaker == "tool" and not isinstance(content, str) and not _are_parts(content) and content is not None:
            content = as_json(content)
        self._read_content(content, self._fields.key(key))
        self._check_parts(speaker, role)
        return _READERS[speaker](self, is_trained)

    def _check_parts(self, speaker: str, role: str) -> None:
        """Refuse parts that have no place in a turn of this speaker.

        Raises:
            UnusableError: There is one.
        """
        held = {"a call": self._calls, "reasoning": self._reasoning, "the result of a call": self._results}
        found = next((what for what, parts in held.items() if parts and speaker not in _SPEAKERS_OF[what]), None)
        if found is not None or (speaker == "call" and self._pictures):
            raise UnusableError(
                f'{_quoted(self._place)} is of "{role}" and holds {found or "a picture"}',
                "calls and reasoning belong to answers, results of calls and pictures to questions",
            )

    def _switch(self) -> bool | None:
        """Return what the turn says of being trained; None where it says nothing."""
        said: set[bool] = set()
        for name, is_turned in _SWITCHES.items():
            value = self._fields.take(name, "whether the answer is trained")
            if is_empty(value):
                continue
            if value not in (0, 1):
                shown = shortened(repr(value), _SHOWN_ROLE)
                raise UnusableError(
                    f'{_quoted(self._place)} has "{self._fields.key(name)}" {shown}; it is 0 or 1',
                    "an answer is trained (1) or not (0), as OpenAI has it; a share of a whole file is the weight of "
                    "its train_file",
                )
            said.add(bool(value) != is_turned)
        if len(said) == 2:
            raise UnusableError(f"{_quoted(self._place)} says both that it is trained and that it is not")
        return said.pop() if said else None

    def _read_content(self, content: Any, key: str) -> None:
        if isinstance(content, Mapping) and "parts" in content:
            own = self._fields.inner(content, key)
            content = own.take("content", "text")
            own.take("content_type", "kind of part")
            own.close()
        if not isinstance(content, list):
            if content is not None:
                self._texts.append(_plain(content, self._place))
            return
        for part in content:
            if isinstance(part, str):
                self._texts.append(_plain(part, self._place))
            elif isinstance(part, Mapping):
                fields = self._fields.inner(part, f"{key}[]")
                self._read_part(fields)
                fields.close()
            else:
                raise UnusableError(f"{_quoted(self._place)} holds a part that is neither text nor a picture")

    def _read_part(self, part: Fields) -> None:
        kind = part.take("type", "kind of part")
        kind = kind if kind is None or isinstance(kind, str) else repr(kind)
        if part.values.get("thought") is True or kind in _REASONING_PARTS:  # the former is Gemini's
            name = next((name for name in ("text", "reasoning") if part.has(name)), "text")
            self._reasoning.append(text_of(part.take(name, "reasoning"), part.key(name)))
            if part.values.get("thought") is True:
                part.take("reasoning", "marks reasoning")
        elif kind in _TEXT_PARTS and "text" in part:
            self._texts.append(_plain(part.take("text", "text"), self._place))
        elif kind == "refusal":
            self._texts.append(_plain(part.take("refusal", "text of the answer, a refusal"), self._place))
        elif kind in _IMAGE_PARTS or (kind is None and part.has("images")):
            name = next((name for name in ("images", "path", "url", "source", "bytes") if part.has(name)), "images")
            value = part.take(name, "picture")
            if name == "bytes":
                part.take("path", "picture")
            part.account_for_picture(value, part.key(name))
            value = part.values if name == "bytes" else value
            self._pictures.append(None if is_empty(value) else value)
            self._texts.append(IMAGE_MARK)
        elif kind == "tool_use":
            self._calls += read_calls(
                {key: part.take(key, "call") for key in ("id", "name", "input")}, part, "tool_use"
            )
        elif kind == "tool_result":
            content, call_id = part.take("content", "result"), part.take("tool_use_id", "call's id")
            text = "".join(part["text"] for part in content) if _are_texts(content) else content
            text = text if isinstance(text, str) else as_json(text)
            self._results.append(Draft(Message("tool", text, call_id=call_id if isinstance(call_id, str) else None)))
        else:
            named = f' ("type": {shortened(repr(kind), _SHOWN_ROLE)})'
            raise UnusableError(f"{_quoted(self._place)} holds a part that is neither text nor a picture{named}")

    def _text(self) -> str:
        """Return the text of the turn, which must have some."""
        return text_of("".join(self._texts) if self._texts else None, self._place)

    def _system(self, _: bool | None) -> list[Draft]:
        return [Draft(Message("system", self._text()), self._pictures)] if "".join(self._texts).strip() else []

    def _user(self, _: bool | None) -> list[Draft]:
        if self._results and not "".join(self._texts).strip():
            return self._results
        return [*self._results, Draft(Message("user", self._text(), name=self._name), self._pictures)]

    def _assistant(self, is_trained: bool | None) -> list[Draft]:
        for name in ("tool_calls", "function_call"):
            if self._fields.has(name):
                self._calls += read_calls(self._fields.take(name, "calls"), self._fields, self._fields.key(name))
        if (reasoning := reasoning_in(self._fields)) is not None:
            self._reasoning.append(reasoning)
        if not "".join(self._texts).strip() and self._fields.has("refusal"):  # OpenAI's: it stands for the content
            self._texts = [_plain(self._fields.take("refusal", "text of the answer, a refusal"), self._place)]
        text = "".join(self._texts)
        if self._has_tools and not self._calls:
            text, calls = calls_in_text(text, self._fields, "tool_call")
            self._calls += calls
        if not self._calls or text.strip():
            text_of(text if self._texts else None, self._place)
        message = Message("assistant", text if text.strip() else "", is_trained=is_trained, name=self._name)
        reasoning = "\n\n".join(self._reasoning) or None
        return [Draft(replace(message, reasoning=reasoning, tool_calls=tuple(self._calls)), self._pictures)]

    def _call(self, is_trained: bool | None) -> list[Draft]:
        calls = read_calls("".join(self._texts), self._fields, self._place)
        return [Draft(Message("assistant", "", is_trained=is_trained, tool_calls=calls))]

    def _tool(self, _: bool | None) -> list[Draft]:
        call_id = self._fields.take("call_id", "call's id")
        return [
            Draft(
                Message(
                    "tool",
                    text,
                    name=self._name,
                    call_id=call_id if isinstance(call_id, str) else None,
                ),
                self._pictures,
            )
            for text in results_in_text(self._text())
        ]


_READERS: dict[str, Callable[[_Turn, bool | None], list[Draft]]] = {
    "system": _Turn._system,
    "user": _Turn._user,
    "assistant": _Turn._assistant,
    "call": _Turn._call,
    "tool": _Turn._tool,
}


def _quoted(place: str) -> str:
    """Write ``messages turn 3`` as ``"messages" turn 3``."""
    name, _, number = place.rpartition(" turn ")
    return f'"{name}" turn {number}'


def _plain(value: Any, name: str) -> str:
    """Return the text of a part, which may be white space, as other parts may say something."""
    return (
        value
        if isinstance(value, str) and not has_half_character(value) and not value.strip()
        else text_of(value, name)
    )


def _are_parts(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(part, Mapping) and "type" in part for part in content)


def _are_texts(content: Any) -> bool:
    return _are_parts(content) and all(isinstance(part.get("text"), str) for part in content)


def _joined_calls(drafts: list[Draft]) -> list[Draft]:
    """Make one turn of an answer and the calls behind it, which some write as turns of their own."""
    joined: list[Draft] = []
    for draft in drafts:
        before, now = joined[-1].message if joined else None, draft.message
        is_continued = before is not None and before.role == now.role == "assistant" and now.tool_calls
        if before is None or not is_continued or now.content or now.reasoning or before.is_trained != now.is_trained:
            joined.append(draft)
            continue
        joined[-1] = Draft(replace(before, tool_calls=before.tool_calls + now.tool_calls), joined[-1].pictures)
    return joined
