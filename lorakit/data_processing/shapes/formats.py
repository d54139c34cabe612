"""The shapes in which people write rows, each turned into an `Example`.

| shape             | recognised by                                                          |
|-------------------|------------------------------------------------------------------------|
| OpenAI            | ``messages``                                                           |
| ShareGPT          | ``conversations``                                                      |
| one text          | ``chat``, ``sample``, ``plain_text`` or ``text`` alone: a conversation with marks |
| MOSS              | ``chat``, an object of turns                                           |
| OpenAssistant     | ``prompt``, a message with ``replies``                                 |
| xLAM              | ``query``, ``tools`` and ``answers``, which are calls                  |
| question/answer   | ``text`` and ``target``, a pair in `PAIRS`, or one name of either side |

Beside any of them stand ``system``, ``history``, ``tools``, ``reasoning`` and pictures; beside a question ``input``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lorakit.config import Config
from lorakit.data_processing.calls.python_calls import calls_as_python
from lorakit.data_processing.calls.tool_calls import TOOLACE, read_tools, tools_in_text
from lorakit.data_processing.example import Example, Message, Rejected, UnusableError
from lorakit.data_processing.field_names import is_asked, judged
from lorakit.data_processing.images import IMAGE_MARK
from lorakit.data_processing.ledger import Account, Fields, Ledger
from lorakit.data_processing.raw import MOST_CHARACTERS, RawRow
from lorakit.data_processing.shapes.conversation import checked, with_results_in_order, with_turns_chosen
from lorakit.data_processing.shapes.copies import is_said
from lorakit.data_processing.shapes.dialogues import (
    is_of_moss,
    read_dialogue,
    read_moss,
    refuse_unread,
    turns_written_in,
)
from lorakit.data_processing.shapes.missing import missing
from lorakit.data_processing.shapes.pairs import answered, read_pair, read_xlam, with_calls
from lorakit.data_processing.shapes.row_pictures import place_pictures
from lorakit.data_processing.shapes.trees import is_tree, read_tree, refuse_lone_message
from lorakit.data_processing.shapes.turns import Draft, are_turns, is_list_of_texts, read_turns, text_of
from lorakit.incoming import has_half_character

PAIRS = (
    ("text", "target"),
    ("instruction", "output"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
    ("problem", "solution"),
    ("problem", "answer"),
)
# Any of the one beside any of the other is a pair too; what then stands beside is named.
_QUESTIONS = ("text", "instruction", "prompt", "question", "query", "user", "human", "input", "problem")
_ANSWERS = ("target", "output", "completion", "response", "answer", "assistant", "bot", "solution", "answers")
_PAIRS = (*PAIRS, *((question, answer) for question in _QUESTIONS for answer in _ANSWERS))
_BY_CONTENT = ("data", "items", "texts", "thread", "chat", "sample", "plain_text", "text", "input", "prompt")


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
    fields = Fields(row.fields, account, renamed=rules.renamed, ignored=rules.ignored)
    messages = with_results_in_order(_messages(fields, rules, row.folder))
    messages = with_turns_chosen(messages, rules.train_turns)
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
    _account_for_template(fields)
    fields.close(lambda name, value: is_said(name, value, example.messages))
    if rules.takes_pictures and not any(message.images for message in example.messages):
        account.mean_pictures()
    return example


def read_conversation(
    turns: Sequence[Any], tools: Any = None, images: Sequence[str] = (), takes_pictures: bool = False
) -> list[Message]:
    """Read a conversation that is to be answered, its turns in any shape that rows may have.

    Args:
        turns: In order.
        tools: That may be called, in any shape that rows may have; None for none.
        images: Pictures beside those that the turns name: at the marks, or before the last turn where there are none.
        takes_pictures: Whether the model does; to others a mark is text.

    Raises:
        UnusableError: A turn cannot be read, holds what the model would not be shown, or has not its pictures.
    """
    account = Account()
    fields = Fields({"messages": list(turns), "images": list(images)}, account)
    offered = None if tools is None else read_tools(tools)
    drafts = read_turns(fields, "messages", has_tools=offered is not None)
    if images and drafts and not any(IMAGE_MARK in draft.message.content for draft in drafts):
        last = drafts[-1].message
        drafts[-1] = Draft(replace(last, content=IMAGE_MARK * len(images) + last.content))
    messages = place_pictures(drafts, fields, Path(), takes_pictures=None)
    lost = [
        place for place, name in sorted(account.left) if judged(name, frozenset()).fate == "meant" and is_asked(name)
    ]
    if lost:
        raise UnusableError(f'has "{lost[0]}", which the model would not be shown', "leave it out")
    if takes_pictures and any(IMAGE_MARK in message.content and not message.images for message in messages):
        raise UnusableError(f"has a mark {IMAGE_MARK} but no picture for it", "name it in images, or take the mark out")
    return [*([Message("tools", offered)] if offered else []), *messages]


def _account_for_template(fields: Fields) -> None:
    """Look into what SmolTalk 2 hands to its template: whether to think shows in the answer, all else is named."""
    values = fields.values.get("chat_template_kwargs")
    if isinstance(values, Mapping):
        own = fields.inner(fields.take("chat_template_kwargs", "settings of a template"), "chat_template_kwargs")
        own.take("enable_thinking", "whether the answer reasons, which it shows itself")
        own.close()


def _texts_not_read_as_such(message: Message) -> tuple[str, ...]:
    """Return the texts that `text_of` has not seen."""
    is_of_tools = message.role in {"tools", "tool"} or message.tool_calls or message.name
    return message.texts if is_of_tools else ()


def _messages(fields: Fields, rules: RowRules, folder: Path) -> list[Message]:
    _refuse_preferences(fields, rules.ignored)
    tools = read_tools(fields.take("tools", "tools"), fields.key("tools")) if fields.has("tools") else None
    drafts = _reader_for(fields, rules)(fields, tools is not None)
    drafts = _with_system(fields, drafts)
    system = drafts[0].message.content if drafts and drafts[0].message.role == "system" else ""
    if listed := tools_in_text(system):
        tools, drafts = tools or listed, drafts[1:]
        fields.note("(system message that lists the tools)", "replaced by what the model's template writes of them")
        drafts = [with_calls(draft, fields) for draft in drafts]
        if TOOLACE in system:
            drafts = [_with_python_calls(draft) for draft in drafts]
    messages = place_pictures(drafts, fields, folder, rules.takes_pictures)
    return [*([Message("tools", tools)] if tools else []), *messages]


def _with_python_calls(draft: Draft) -> Draft:
    message = draft.message
    calls = calls_as_python(message.content) if message.role == "assistant" and not message.tool_calls else ()
    return Draft(replace(message, content="", tool_calls=calls), draft.pictures) if calls else draft


def _refuse_preferences(fields: Fields, ignored: frozenset[str]) -> None:
    names = [name for name in ("chosen", "rejected", "preferred_output", "non_preferred_output") if fields.has(name)]
    if len(names) > 1 and not ignored.intersection(names):
        is_whole = not any(map(fields.has, ("prompt", "question", "messages", "conversations")))
        preferred = fields.values[fields.key(names[0])]
        kind = "messages" if is_whole and are_turns(preferred) else "target"
        kind = "chat" if is_whole and turns_written_in(preferred) else kind
        raise UnusableError(
            f'holds preferences ("{names[0]}" and "{names[1]}"), which are for DPO; lorakit trains answers',
            f"map_fields: {{chosen: {kind}}} with ignore_fields: [rejected] trains the preferred answers alone"
            if names[0] == "chosen"
            else "to train the preferred answers alone, write them as messages, behind those that they answer",
        )


_Reader = Callable[[Fields, bool], list[Draft]]


def _reader_for(fields: Fields, rules: RowRules) -> _Reader:
    if fields.has("tools") and fields.has("answers") and (question := _question_of(fields)):
        return lambda row, has_tools: read_xlam(row, question)
    for is_there in (fields.has, fields.__contains__):  # columns of another shape may be there, and be null
        if (reader := _reader_of(fields, is_there)) is not None:
            return reader
    refuse_lone_message(fields)
    refuse_unread(fields)
    raise missing(fields, (rules.text, rules.target), _QUESTIONS, _ANSWERS)


def _reader_of(fields: Fields, is_there: Callable[[str], bool]) -> _Reader | None:
    if is_there("text") and is_there("target"):
        return lambda row, has_tools: read_pair(row, "text", "target", has_tools)
    for name in ("messages", "conversations"):
        if is_there(name):
            return lambda row, has_tools, name=name: _read_conversation(row, name, has_tools)  # type: ignore[misc]
    if (reader := _reader_by_content(fields)) is not None:
        return reader
    chosen = {name for name in ("text", "target") if fields.is_chosen(name)}
    pairs = sorted(_PAIRS, key=lambda pair: -len(chosen.intersection(pair))) if chosen else _PAIRS
    found = next((pair for pair in pairs if is_there(pair[0]) and is_there(pair[1])), None)
    if found is None and is_there("reasoning") and is_there("content"):  # beside reasoning_content
        found = next(((question, "content") for question in _QUESTIONS if is_there(question)), None)
    return None if found is None else lambda row, has_tools: read_pair(row, *found, has_tools)


def _reader_by_content(fields: Fields) -> _Reader | None:
    """Recognise a row by what stands in a field whose name alone says little."""
    values = {name: fields.values[fields.key(name)] for name in _BY_CONTENT if fields.has(name)}
    for name in ("data", "items", "texts", "thread"):
        if are_turns(values.get(name)) or is_list_of_texts(values.get(name)):
            return lambda row, has_tools, name=name: read_turns(row, name, has_tools)  # type: ignore[misc]
    if is_of_moss(values.get("chat")):
        return lambda row, has_tools: read_moss(row)
    if is_tree(values.get("prompt")):
        return lambda row, has_tools: read_tree(row, "prompt")
    is_alone = not any(map(fields.has, _ANSWERS))
    for name in ("chat", "sample", "plain_text", *(("text", "input", "prompt") if is_alone else ())):
        if (turns := turns_written_in(values.get(name))) and any(role == "assistant" and said for role, said in turns):
            return lambda row, has_tools, name=name: read_dialogue(row, name)  # type: ignore[misc]
    return None


def _question_of(fields: Fields) -> str | None:
    return next((name for name in _QUESTIONS if fields.has(name)), None)


def _read_conversation(fields: Fields, name: str, has_tools: bool) -> list[Draft]:
    """Read turns, and the answer to them where the user has said that it stands in a field of its own."""
    turns = read_turns(fields, name, has_tools)
    return [*turns, *answered(fields, "target", has_tools)] if "target" in fields else turns


def _with_system(fields: Fields, drafts: list[Draft]) -> list[Draft]:
    if not fields.has("system"):
        return drafts
    value = fields.take("system", "system message")
    parts = value.get("parts") if isinstance(value, Mapping) else value  # Gemini's, and Bedrock's
    if isinstance(parts, list) and all(isinstance(part, Mapping) and "text" in part for part in parts):
        value = "".join(str(part["text"]) for part in parts)
        for part in parts:
            inner = fields.inner(part, f"{fields.key('system')}[]")
            inner.take("text", "system message")
            inner.take("type", "kind of part")
            inner.close()
    text = text_of(value, fields.key("system")).removeprefix("SYSTEM: ")  # as Glaive has it
    own = drafts[0].message if drafts and drafts[0].message.role == "system" else None
    if own is None:
        return [Draft(Message("system", text)), *drafts]
    if own.content.strip() != text.strip():
        raise UnusableError(
            f'has a system message in "{fields.key("system")}" and another in its turns; keep one of them',
            f"ignore_fields: [{fields.key('system')}] keeps that of the turns",
        )
    return drafts
