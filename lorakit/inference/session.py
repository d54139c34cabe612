"""The interactive session: a question, its answer as a stream, and so on until ``exit``; commands begin with ``/``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import Message, put_marks
from lorakit.errors import DataError, LorakitError, OutputError
from lorakit.inference.adapters import Adapters, open_adapters
from lorakit.inference.text.tool_calls import CallReader

QUESTION_LABEL = "输入文本: "
_ANSWER = "输出结果: "
_LINES_MARK = '"""'


class _AfterLabel:
    """Shows pieces of an answer, the first one after its label: until then, that there is something to wait for."""

    def __init__(self) -> None:
        self._has_label = False
        self._waiting = ExitStack()
        self._waiting.enter_context(console.progress(None, "thinking"))

    def __call__(self, piece: str) -> None:
        if not piece:
            return
        self.end_waiting()
        if not self._has_label:
            console.label(_ANSWER)
            self._has_label = True
        console.stream(piece)

    def end_waiting(self) -> None:
        """Leave the line to what is said next."""
        self._waiting.close()


class Session:
    """What the commands of a session work on.

    Args:
        adapters: The base with its adapters.
        config: The generation settings, and the pictures to begin with.
    """

    def __init__(self, adapters: Adapters, config: Config) -> None:
        self.adapters = adapters
        self.config = config
        self.images = tuple(config.image)
        self.last_question: str | None = None
        self._at_the_start = adapters.active

    def ask(self, text: str) -> None:
        """Stream the answer to one question. Each question stands for itself."""
        from lorakit.inference.generation import stream_answer
        from lorakit.inference.sampling import SamplingParams

        self.last_question = text
        answer = ""
        shown = _AfterLabel()
        try:
            params, is_cleaned = SamplingParams.of(self.config), self.config.clean_repetition
            asked = [self.question(text)]
            answer = stream_answer(self.adapters.assistant, asked, params, shown, is_cleaned)
        except KeyboardInterrupt:  # stops this answer, not the session
            shown.end_waiting()
            console.label(" (interrupted)")
        except OutputError:  # no answer can be read any more
            raise
        except LorakitError as error:  # such as a question too long: the next one may do
            shown.end_waiting()
            console.warn(str(error))
        finally:
            shown.end_waiting()
        shown("\n")
        self._show_calls(answer)

    def question(self, text: str) -> Message:
        """Make a message of a question and the session's pictures."""
        return question(text, self.images, self.adapters.assistant.chat_format.images is not None)

    def _show_calls(self, answer: str) -> None:
        assistant = self.adapters.assistant
        if assistant.tools is not None:
            for call in CallReader.of(assistant.chat_format).read(answer, assistant.tools).calls:
                console.note(f"calls {call.name} with {call.arguments}")

    def reset(self) -> None:
        """Go back to the adapter and the pictures that the session began with."""
        loaded = {choice.name for choice in self.adapters.choices}
        self.adapters.mix({name: weight for name, weight in self._at_the_start.items() if name in loaded})
        self.images = tuple(self.config.image)


def run(config: Config) -> int:
    """Answer questions from the terminal, or from a pipe line by line."""
    from lorakit.inference.commands import COMMANDS, complete

    with console.progress(None, "loading"):
        adapters = open_adapters(config)
    session = Session(adapters, config)
    try:
        adapters.assistant.chat_format.pictures(
            [question("", session.images)]
        )  # a fault should not wait for a question
    except DataError as error:
        raise DataError(f"image: {error.message}", error.hint) from error
    if config.question_file or config.jsonl:
        from lorakit.inference.questions import answer_lines, answer_questions

        (answer_questions if config.question_file else answer_lines)(adapters.assistant, config)
        return 0
    if config.question is not None:
        session.ask(config.question)
        return 0
    console.note(f'type a question, of several lines between """ and """; exit leaves; {" ".join(COMMANDS)}')
    console.edit_lines(lambda line: complete(session, line))
    _converse(session)
    return 0


def _converse(session: Session) -> None:
    """Read lines and obey or answer them until the session is left."""
    from lorakit.inference.commands import obey

    is_leaving = False  # after Ctrl-C on an empty line
    while True:
        try:
            line = _read_question()
        except EOFError:
            console.note("")
            return
        except console.LongLineError as error:  # its answer is an empty line, as that of any question that is refused
            console.warn(str(error))
            console.stream("\n")
            continue
        except KeyboardInterrupt:
            has_cleared = bool(console.typed())
            console.note("" if has_cleared or is_leaving else "\nCtrl-C once more leaves")
            if is_leaving and not has_cleared:
                return
            is_leaving = not has_cleared
            continue
        is_leaving = False
        if line.lower() in {"exit", "quit"}:
            return
        try:
            if line and not obey(session, line):
                session.ask(line)
        except KeyboardInterrupt:  # what was under way ends, not the session
            console.note("\nstopped")


def _read_question() -> str:
    """Read a line, or all lines between two marks of three quotation marks.

    Raises:
        EOFError: There is none any more.
        LongLineError: It has more characters than any model reads, and has been read to its end.
    """
    length = 0
    try:
        line = console.prompt(QUESTION_LABEL).strip()
    except console.LongLineError as error:
        if not error.beginning.lstrip().startswith(_LINES_MARK):
            raise
        line, length = _LINES_MARK, console.LONGEST_LINE
    if not line.startswith(_LINES_MARK):
        return line
    lines = [line.removeprefix(_LINES_MARK)]
    while not lines[-1].rstrip().endswith(_LINES_MARK):
        try:
            lines.append(console.prompt(""))
            length += len(lines[-1]) + 1
        except console.LongLineError:
            length += console.LONGEST_LINE
        except EOFError:
            break
        if length > console.LONGEST_LINE:  # to its end, of which nothing is kept
            lines = lines[-1:]
    if length > console.LONGEST_LINE:
        raise console.LongLineError(
            "a question has more characters than any model reads", f"its end is a line that ends with {_LINES_MARK}"
        )
    lines[-1] = lines[-1].rstrip().removesuffix(_LINES_MARK)
    return "\n".join(lines).strip("\n")


def question(text: str, images: Sequence[str], takes_pictures: bool = True) -> Message:
    """Make a message of a question and the pictures that it is about: at its marks, or before it.

    To a model that takes none a mark is text, as it is in rows.
    """
    if not images and not takes_pictures:
        return Message("user", text)
    return put_marks(Message("user", text), images)
