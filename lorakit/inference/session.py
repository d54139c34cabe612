"""The interactive session: a question, its answer as a stream, and so on until ``exit``."""

from __future__ import annotations

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import Message
from lorakit.errors import LorakitError
from lorakit.inference.assistant import Assistant, open_assistant

_QUESTION = "输入文本: "
_ANSWER = "输出结果: "
_LEAVE = {"exit", "quit"}


def run(config: Config) -> int:
    """Answer questions from the terminal, or from a pipe line by line. Each question stands for itself."""
    assistant = open_assistant(config)
    console.note("type a question; exit leaves")
    while True:
        try:
            question = console.prompt(_QUESTION).strip()
        except (EOFError, KeyboardInterrupt):
            console.note("")
            return 0
        if question.lower() in _LEAVE:
            return 0
        if question:
            _answer(assistant, question, config)


def _answer(assistant: Assistant, question: str, config: Config) -> None:
    from lorakit.inference.generation import stream_answer

    console.label(_ANSWER)
    try:
        stream_answer(assistant, [Message("user", question)], config, console.stream)
    except KeyboardInterrupt:  # stops this answer, not the session
        console.label(" (interrupted)")
    except LorakitError as error:  # such as a question too long: the next one may do
        console.warn(str(error))
    console.stream("\n")
