"""The interactive session: a question, its answer as a stream, and so on until ``exit``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import IMAGE_MARK, Message
from lorakit.errors import LorakitError
from lorakit.inference.assistant import Assistant, open_assistant

_QUESTION = "输入文本: "
_ANSWER = "输出结果: "
_LEAVE = {"exit", "quit"}
_IMAGE = "/image"


def run(config: Config) -> int:
    """Answer questions from the terminal, or from a pipe line by line. Each question stands for itself."""
    assistant = open_assistant(config)
    images = tuple(config.image)
    assistant.chat_format.pictures([_question("", images)])  # a fault should not wait for the first question
    takes_images = assistant.chat_format.images is not None
    console.note("type a question; exit leaves" + (f"; {_IMAGE} PATH shows a picture" if takes_images else ""))
    while True:
        try:
            line = console.prompt(_QUESTION).strip()
        except (EOFError, KeyboardInterrupt):
            console.note("")
            return 0
        if line.lower() in _LEAVE:
            return 0
        if line.split(maxsplit=1)[:1] == [_IMAGE]:
            images = _chosen(assistant, line.removeprefix(_IMAGE), images)
        elif line:
            _answer(assistant, _question(line, images), config)


def _question(text: str, images: Sequence[str]) -> Message:
    return Message("user", IMAGE_MARK * len(images) + text, tuple(images))


def _chosen(assistant: Assistant, paths: str, before: tuple[str, ...]) -> tuple[str, ...]:
    """Return the pictures that the next questions are about; those of before where one cannot be used."""
    try:
        images = tuple(shlex.split(paths))
        found = assistant.chat_format.pictures([_question("", images)])
    except (LorakitError, ValueError) as error:  # ValueError: a quotation mark without its partner
        console.warn(str(error))
        return before
    console.note(f"{len(images)} pictures, {sum(picture.tokens for picture in found)} tokens")
    return images


def _answer(assistant: Assistant, question: Message, config: Config) -> None:
    from lorakit.inference.generation import stream_answer

    console.label(_ANSWER)
    try:
        stream_answer(assistant, [question], config, console.stream)
    except KeyboardInterrupt:  # stops this answer, not the session
        console.label(" (interrupted)")
    except LorakitError as error:  # such as a question too long: the next one may do
        console.warn(str(error))
    console.stream("\n")
