"""The shapes in which people write rows, each turned into an `Example`.

| shape             | recognised by                                                          |
|-------------------|------------------------------------------------------------------------|
| OpenAI            | ``messages``                                                           |
| ShareGPT          | ``conversations``                                                      |
| Glaive            | ``chat``, a whole conversation as text                                 |
| xLAM              | ``query``, ``tools`` and ``answers``, which are calls                  |
| question/answer   | ``text`` and ``target``, a pair in `PAIRS`, or one name of either side |

Beside any of them stand ``system``, ``history``, ``tools``, ``reasoning`` and pictures; beside a question ``input``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from lorakit.config import Config
from lorakit.data_processing.conversation import checked, with_turns_chosen
from lorakit.data_processing.example import Example, Message, Rejected, UnusableError, shortened
from lorakit.data_processing.field_names import judged
from lorakit.data_processing.glaive import read_glaive
from lorakit.data_processing.images import IMAGE_MARK
from lorakit.data_processing.ledger import Account, Fields, Ledger, parsed_cell
from lorakit.data_processing.raw import MOST_CHARACTERS, RawRow
from lorakit.data_processing.row_pictures import place_pictures
from lorakit.data_processing.tool_calls import calls_in_text, read_calls, read_tools, tools_in_text
from lorakit.data_processing.turns import Draft, read_turns, text_of
from lorakit.incoming import has_half_character

PAIRS = (
    ("text", "target"),
    ("instruction", "output"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
)
# Any of the one beside any of the other is a pair too; what then stands beside is named.
_QUESTIONS = ("text", "instruction", "prompt", "question", "query", "user", "human", "input")
_ANSWERS = ("target", "output", "completion", "response", "answer", "assistant", "bot")
_PAIRS = (*PAIRS, *((question, answer) for question in _QUESTIONS for answer in _ANSWERS))
_SHOWN_FIELDS = 20


@dataclass(frozen=True)
class RowRules:
    """How the rows of a file are to be read.

    Attributes:
        text: What the user calls the question's field.
        target: What the user calls the answer's field.
        system_prompt: Given to conversations that carry no system message.
        takes_pictures: Whether the model does; None where that is not known.
        train_turns: Which answers of a conversation carry loss.
        map_fields: Further fields and what they mean.
        ignored: Fields that are left out.
    """

    text: str = "text"
    target: str = "target"
    system_prompt: str | None = None
    takes_pictures: bool | None = None
    train_turns: Literal["all", "last", "marked"] = "all"
    map_fields: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: Config, takes_pictures: bool) -> RowRules:
        """Take them from the settings."""
        return cls(
            config.text_field,
            config.target_field,
            config.system_prompt,
            takes_pictures,
            config.train_turns,
            config.map_fields,
            frozenset(config.ignore_fields),
        )

    @cached_property
    def renamed(self) -> Mapping[str, str]:
        """What readers call the fields that the user names."""
        return {self.text: "text", self.target: "target", **self.map_fields}


_DEFAULT = RowRules()


def to_example(row: RawRow, rules: RowRules = _DEFAULT, ledger: Ledger | None = None) -> Example | Rejected:
    """Turn a raw row of any known shape into a conversation, or say what is wrong with it.

    Args:
        row: The row as the file has it.
        rules: How to read it.
        ledger: Receives what became of each of its fields, where it can be used.
    """
    account = Account()
    try:
        example = read_example(row, rules, account)
    except UnusableError as error:
        return Rejected(row.origin, str(error), error.hint)
    if ledger is not None:
        ledger.add(account)
    return example


def read_example(row: RawRow, rules: RowRules, account: Account) -> Example:
    """Turn a raw row of any known shape into a conversation.

    Args:
        row: The row as the file has it.
        rules: How to read it.
        account: Receives what became of each of its fields.

    Raises:
        UnusableError: Something is wrong with it.
    """
    if not isinstance(row.fields, Mapping):
        raise UnusableError(
            f"is not an object with fields (found: {type(row.fields).__name__})",
            'a row is {"text": "question", "target": "answer"}; pandas writes such rows with to_json(FILE, '
            "orient='records', lines=True, force_ascii=False)",
        )
    fields = Fields(row.fields, account, renamed=rules.renamed)
    messages = with_turns_chosen(_messages(fields, rules, row.folder), rules.train_turns)
    example = Example(checked(messages, rules.system_prompt), row.origin)
    if (
        next((message.role for message in example.messages if message.role not in {"tools", "system"}), "")
        == "assistant"
    ):
        fields.note("(answer before the first question)", "what the conversation begins with: nothing was asked")
    if messages[-1] != example.messages[-1]:
        fields.note("(turns after the last trained answer)", "left out: no answer follows them")
    if sum(len(message.content) for message in example.messages) > MOST_CHARACTERS:
        raise UnusableError(f"holds more than {MOST_CHARACTERS} characters, which no model reads")
    if any(has_half_character(text) for message in example.messages for text in _texts_not_read_as_such(message)):
        raise UnusableError("holds half a character (an unpaired surrogate)")
    fields.close()
    return example


def read_conversation(turns: Sequence[Any], tools: Any = None, images: Sequence[str] = ()) -> list[Message]:
    """Read a conversation that is to be answered, its turns in any shape that rows may have.

    Args:
        turns: In order.
        tools: That may be called, in any shape that rows may have; None for none.
        images: Pictures beside those that the turns name: at the marks, or before the last turn where there are none.

    Raises:
        UnusableError: A turn cannot be read, or pictures do not match their marks.
    """
    fields = Fields({"messages": list(turns), "images": list(images)}, Account())
    offered = None if tools is None else read_tools(tools)
    drafts = read_turns(fields, "messages", has_tools=offered is not None)
    if images and drafts and not any(IMAGE_MARK in draft.message.content for draft in drafts):
        last = drafts[-1].message
        drafts[-1] = Draft(replace(last, content=IMAGE_MARK * len(images) + last.content))
    messages = place_pictures(drafts, fields, Path(), takes_pictures=None)
    return [*([Message("tools", offered)] if offered else []), *messages]


def _texts_not_read_as_such(message: Message) -> tuple[str, ...]:
    """Return the texts that `text_of` has not seen."""
    is_of_tools = message.role in {"tools", "tool"} or message.tool_calls or message.name
    return message.texts if is_of_tools else ()


def _messages(fields: Fields, rules: RowRules, folder: Path) -> list[Message]:
    _refuse_preferences(fields, rules.ignored)
    tools = read_tools(fields.take("tools", "tools"), fields.key("tools")) if fields.has("tools") else None
    drafts = _reader_for(fields, rules)(fields, tools is not None)
    drafts = _with_system(fields, drafts)
    if drafts and drafts[0].message.role == "system" and (listed := tools_in_text(drafts[0].message.content)):
        tools, drafts = tools or listed, drafts[1:]
        fields.note("(system message that lists the tools)", "replaced by what the model's template writes of them")
        drafts = [_with_calls(draft, fields) for draft in drafts]
    messages = place_pictures(drafts, fields, folder, rules.takes_pictures)
    return [*([Message("tools", tools)] if tools else []), *messages]


def _refuse_preferences(fields: Fields, ignored: frozenset[str]) -> None:
    names = [name for name in ("chosen", "rejected", "preferred_output", "non_preferred_output") if fields.has(name)]
    if len(names) > 1 and not ignored.intersection(names):
        is_whole = not any(map(fields.has, ("prompt", "question", "messages", "conversations")))
        kind = "messages" if is_whole and _are_turns(fields.values[fields.key(names[0])]) else "target"
        raise UnusableError(
            f'holds preferences ("{names[0]}" and "{names[1]}"), which are for DPO; lorakit trains answers',
            f"map_fields: {{chosen: {kind}}} with ignore_fields: [rejected] trains the preferred answers alone"
            if names[0] == "chosen"
            else "to train the preferred answers alone, write them as messages, behind those that they answer",
        )


_Reader = Callable[[Fields, bool], list[Draft]]


def _reader_for(fields: Fields, rules: RowRules) -> _Reader:
    if fields.has("tools") and fields.has("answers") and (question := _question_of(fields)):
        return lambda row, has_tools: _read_xlam(row, question)
    for is_there in (fields.has, fields.__contains__):  # columns of another shape may be there, and be null
        if (reader := _reader_of(is_there)) is not None:
            return reader
    raise _missing(fields, rules)


def _reader_of(is_there: Callable[[str], bool]) -> _Reader | None:
    if is_there("text") and is_there("target"):
        return lambda row, has_tools: _read_pair(row, "text", "target", has_tools)
    for name in ("messages", "conversations"):
        if is_there(name):
            return lambda row, has_tools, name=name: _read_conversation(row, name, has_tools)  # type: ignore[misc]
    if is_there("chat"):
        return read_glaive
    found = next((pair for pair in _PAIRS if is_there(pair[0]) and is_there(pair[1])), None)
    return None if found is None else lambda row, has_tools: _read_pair(row, *found, has_tools)


def _says_nothing(key: str) -> bool:
    return judged(key, frozenset()).fate == "harmless"


def _question_of(fields: Fields) -> str | None:
    return next((name for name in _QUESTIONS if fields.has(name)), None)


def _missing(fields: Fields, rules: RowRules) -> UnusableError:
    keys = [str(key) for key in fields.values]
    found = shortened(", ".join(islice(keys, _SHOWN_FIELDS))) or "nothing"
    if "text" in fields:
        reason = f'"{rules.target}" is missing (found: {found}); rename the answer\'s field, or set target_field'
    elif "target" in fields:
        reason = f'"{rules.text}" is missing (found: {found}); rename the question\'s field, or set text_field'
    else:
        reason = f'"{rules.text}" and "{rules.target}" are missing (found: {found})'
    texts = [key for key in keys if isinstance(fields.values[key], str) and not _says_nothing(key)]
    question, answer = texts if len(texts) == 2 else ("QUESTION", "ANSWER")
    names = f"text_field: {shortened(question, 40)} and target_field: {shortened(answer, 40)}"
    return UnusableError(reason, f"say which of the fields are question and answer: {names}")


def _read_conversation(fields: Fields, name: str, has_tools: bool) -> list[Draft]:
    """Read turns, and the answer to them where the user has said that it stands in a field of its own."""
    turns = read_turns(fields, name, has_tools)
    return [*turns, *_answered(fields, "target", has_tools)] if "target" in fields else turns


def _read_pair(fields: Fields, question: str, answer: str, has_tools: bool) -> list[Draft]:
    return [*_history(fields), *_asked(fields, question, has_tools), *_answered(fields, answer, has_tools)]


def _answered(fields: Fields, answer: str, has_tools: bool) -> list[Draft]:
    if _are_turns(fields.values[fields.key(answer)]):
        return read_turns(fields, answer, has_tools)
    text = text_of(fields.take(answer, "answer"), fields.key(answer))
    reasoning = None
    if fields.has("reasoning"):
        reasoning = text_of(fields.take("reasoning", "reasoning of the answer"), fields.key("reasoning"))
    draft = Draft(Message("assistant", text, reasoning=reasoning))
    return [_with_calls(draft, fields) if has_tools else draft]


def _asked(fields: Fields, question: str, has_tools: bool) -> list[Draft]:
    if _are_turns(fields.values[fields.key(question)]):
        turns = read_turns(fields, question, has_tools)
        return [Draft(_as_context(draft.message), draft.pictures) for draft in turns]
    text = text_of(fields.take(question, "question"), fields.key(question))
    # Dolly calls Alpaca's input context.
    extra = "context" if question == "instruction" and not fields.has("input") else "input"
    if question != "input" and fields.has(extra):
        purpose = "part of the question, after it"
        text = f"{text}\n{text_of(fields.take(extra, purpose), fields.key(extra))}"
    return [Draft(Message("user", text))]


def _as_context(message: Message) -> Message:
    """Of prompt and completion only the latter is trained."""
    return replace(message, is_trained=False) if message.role == "assistant" else message


def _are_turns(value: Any) -> bool:
    if isinstance(value, str) and '"role"' not in value and "'role'" not in value:
        return False
    value = parsed_cell(value)
    listed = [value] if isinstance(value, Mapping) else value
    return isinstance(listed, list | tuple) and bool(listed) and all(isinstance(turn, Mapping) for turn in listed)


def _read_xlam(fields: Fields, question: str) -> list[Draft]:
    calls = read_calls(fields.take("answers", "calls"), fields, fields.key("answers"))
    asked = text_of(fields.take(question, "question"), fields.key(question))
    return [*_history(fields), Draft(Message("user", asked)), Draft(Message("assistant", "", tool_calls=calls))]


def _with_calls(draft: Draft, fields: Fields) -> Draft:
    if draft.message.role != "assistant" or draft.message.tool_calls:
        return draft
    text, calls = calls_in_text(draft.message.content, fields, "tool_call")
    return Draft(replace(draft.message, content=text, tool_calls=calls), draft.pictures)


def _with_system(fields: Fields, drafts: list[Draft]) -> list[Draft]:
    if not fields.has("system"):
        return drafts
    value = fields.take("system", "system message")
    if isinstance(value, Mapping) and isinstance(parts := value.get("parts"), list):  # Gemini's
        value = "".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))
    text = text_of(value, fields.key("system")).removeprefix("SYSTEM: ")  # as Glaive has it
    own = drafts[0].message if drafts and drafts[0].message.role == "system" else None
    if own is None:
        return [Draft(Message("system", text)), *drafts]
    if own.content.strip() != text.strip():
        raise UnusableError(
            f'has a system message in "{fields.key("system")}" and another in its turns; keep one of them'
        )
    return drafts


def _history(fields: Fields) -> list[Draft]:
    """Read earlier turns: pairs of question and answer, or turns with roles."""
    if not fields.has("history"):
        return []
    name = fields.key("history")
    value = parsed_cell(fields.values[name])
    if _are_turns(value):
        return [Draft(_as_context(draft.message), draft.pictures) for draft in read_turns(fields, "history", False)]
    fields.take("history", "earlier turns")
    drafts = []
    for turn in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise UnusableError(f'"{name}" is not a list of [question, answer] pairs')
        drafts += [Draft(Message("user", text_of(turn[0], name))), Draft(Message("assistant", text_of(turn[1], name)))]
    return drafts
