"""The commands of a session, each with its help: adapters in and out, mixed and compared, and pictures."""

from __future__ import annotations

import difflib
import glob
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorakit import console
from lorakit.errors import LorakitError, OutputError, SettingsError
from lorakit.inference.adapters import describe
from lorakit.inference.session import Session, question
from lorakit.model_config import BASE, choose_adapters, read_weighted

_MOST_SHOWN = 1000  # characters of what is wrong with a line
_WORD = re.compile(r"/[a-z_]*", re.IGNORECASE)


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        arguments: As the help shows them.
        help: What it does.
        run: Gets the session and the words behind the command.
        takes_text: Whether what stands behind it is a text, which is given as one word.
        completes: What the words may be: ``names`` of adapters, ``paths``, or nothing.
    """

    arguments: str
    help: str
    run: Callable[[Session, Sequence[str]], None]
    completes: str = ""
    takes_text: bool = False


def obey(session: Session, line: str) -> bool:
    """Carry out a line that is a command.

    Returns:
        Whether it was meant as one. ``/usr/bin`` at the beginning of a question is not.
    """
    word, _, rest = line.partition(" ")
    if not _WORD.fullmatch(word):
        return False
    command = COMMANDS.get(word.lower())
    if command is None:
        close = difflib.get_close_matches(word.lower(), COMMANDS, n=1)
        console.warn(f"{word} is no command\nhint: {f'did you mean {close[0]}?' if close else '/help lists them'}")
        return True
    try:
        command.run(session, [rest.strip()] if command.takes_text else _words(rest))
    except OutputError:
        raise
    except (
        LorakitError,
        ValueError,
        OSError,
    ) as error:  # a quotation mark without its partner; a name no file can have
        text = str(error)[:_MOST_SHOWN]
        console.warn(text if text.startswith(word) else f"{word}: {text}")
    return True


def _words(text: str) -> list[str]:
    """Split at spaces outside quotation marks; on Windows a backslash is part of a path."""
    if os.name == "nt":
        return [word.strip("\"'") for word in shlex.split(text, posix=False)]
    return shlex.split(text)


def complete(session: Session, line: str) -> list[str]:
    """Return what the last word of a line may become, for the Tab key."""
    word, separator, rest = line.partition(" ")
    if not separator:
        return [name + " " for name in COMMANDS if name.startswith(word)] if word.startswith("/") else []
    last = rest.rpartition(" ")[2]
    command = COMMANDS.get(word)
    kind = command.completes if command else ""
    if kind == "names":
        return [choice.name for choice in session.adapters.choices if choice.name.startswith(last)]
    if kind == "paths":
        before, separator, path = last.rpartition("=")
        found = glob.glob(glob.escape(os.path.expanduser(path)) + "*")
        return [before + separator + name + (os.sep if os.path.isdir(name) else "") for name in sorted(found)]
    return []


def _show_adapters(session: Session, words: Sequence[str]) -> None:
    _take_none(words)
    active = session.adapters.active
    rows = [("" if active else "in use", BASE)]
    for choice in session.adapters.choices:
        state = f"in use, weight {active[choice.name]:g}" if choice.name in active else ""
        rows.append((state, describe(choice)))
    for state, text in rows:
        console.note(f"  {'*' if state else ' '} {text}{f'  [{state}]' if state else ''}")


def _use(session: Session, words: Sequence[str]) -> None:
    session.adapters.use(_one(words, "/use NAME"))
    _say_what_is_used(session)


def _base(session: Session, words: Sequence[str]) -> None:
    _take_none(words)
    session.adapters.base()
    _say_what_is_used(session)


def _mix(session: Session, words: Sequence[str]) -> None:
    if not words:
        raise SettingsError("/mix: names no adapter", "/mix polite:0.7 brief:0.3")
    weights = dict(read_weighted(word, "/mix") for word in words)
    if len(weights) < len(words):
        raise SettingsError("/mix: names an adapter twice", "/mix polite:0.7 brief:0.3")
    session.adapters.mix(weights)
    _say_what_is_used(session)


def _load(session: Session, words: Sequence[str]) -> None:
    choice = choose_adapters([_one(words, "/load PATH or /load NAME=PATH")], "/load")[0]
    try:
        with console.progress(None, "loading"):
            session.adapters.load(choice)
    except KeyboardInterrupt:
        if choice.name in {loaded.name for loaded in session.adapters.choices}:
            session.adapters.unload(choice.name)
        raise
    console.note(f"loaded {describe(choice)}; /use {choice.name} answers with it")


def _unload(session: Session, words: Sequence[str]) -> None:
    session.adapters.unload(_one(words, "/unload NAME"))
    _say_what_is_used(session)


def _compare(session: Session, words: Sequence[str]) -> None:
    from lorakit.inference.generation import answer_batch
    from lorakit.inference.sampling import SamplingParams

    text = words[0] or session.last_question
    if text is None:
        raise SettingsError("/compare: there is no question yet", "/compare QUESTION, or ask one first")
    session.last_question = text
    names = [BASE, *(choice.name for choice in session.adapters.choices)]
    answers, params = [], SamplingParams.of(session.config)
    for name in names:
        with console.progress(None, f"answering as {name}"), session.adapters.using(name) as assistant:
            answers += answer_batch(assistant, [[session.question(text)]], params)
    console.table(text, names, [answers])


def _reset(session: Session, words: Sequence[str]) -> None:
    _take_none(words)
    session.reset()
    _say_what_is_used(session)


def _image(session: Session, words: Sequence[str]) -> None:
    found = session.adapters.assistant.chat_format.pictures([question("", words)])
    session.images = tuple(words)
    console.note(f"{len(words)} pictures, {sum(picture.tokens for picture in found)} tokens")


def _help(session: Session, words: Sequence[str]) -> None:
    _take_none(words)
    shown = {f"{name} {command.arguments}".rstrip(): command.help for name, command in COMMANDS.items()}
    console.facts("in this session", list((shown | _WITHOUT_SLASH).items()))


_WITHOUT_SLASH = {
    "exit": "leave the session",
    "Ctrl-C": "end an answer or what a command does; clear a line; twice on an empty line: leave",
}


def _say_what_is_used(session: Session) -> None:
    used = " + ".join(f"{name}:{weight:g}" for name, weight in session.adapters.active.items())
    console.note(f"in use: {used or BASE}")


def _one(words: Sequence[str], usage: str) -> str:
    if len(words) != 1:
        raise SettingsError(f"{usage.split(maxsplit=1)[0]}: takes one word (found: {len(words)})", usage)
    return words[0]


def _take_none(words: Sequence[str]) -> None:
    if words:
        raise SettingsError(f"takes nothing behind it (found: {' '.join(words)})", "/help lists the commands")


COMMANDS = {
    "/adapters": Command("", "list the adapters and what is in use", _show_adapters),
    "/use": Command("NAME", "answer with one adapter", _use, "names"),
    "/base": Command("", "answer as the base model", _base),
    "/mix": Command("NAME:WEIGHT ...", "answer with the weighted sum of several", _mix, "names"),
    "/load": Command("[NAME=]PATH[:WEIGHT]", "load one more adapter", _load, "paths"),
    "/unload": Command("NAME", "take an adapter out of memory", _unload, "names"),
    "/compare": Command(
        "[QUESTION]", "the base and every adapter, side by side; the last question again", _compare, takes_text=True
    ),
    "/image": Command(
        "[PATH ...]", "the pictures that the next questions are about; without one, none", _image, "paths"
    ),
    "/reset": Command("", "the adapter and the pictures of the beginning", _reset),
    "/help": Command("", "this list", _help),
}
