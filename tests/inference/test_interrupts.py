"""Ctrl-C in a session ends what is under way, clears a line, and leaves only where it is meant."""

from types import SimpleNamespace

import pytest

from lorakit import console
from lorakit.config import Config
from lorakit.inference import commands, generation
from lorakit.inference import session as module
from lorakit.inference.session import Session


@pytest.fixture
def converse(monkeypatch, capsys):
    """Return a function that plays what a person does: lines, and interrupts with what stood in the line."""

    def play(*events, answers=None):
        waiting = list(events)
        standing = [""]

        def prompt(label):
            event = waiting.pop(0)
            if isinstance(event, tuple):
                standing[0] = event[1]
                raise KeyboardInterrupt
            return event

        def answered(assistant, messages, config, show, clean_repetition):
            show("一")
            if answers == "interrupted":
                raise KeyboardInterrupt
            return "一"

        monkeypatch.setattr(console, "prompt", prompt)
        monkeypatch.setattr(console, "typed", lambda: standing[0])
        monkeypatch.setattr(generation, "stream_answer", answered)
        assistant = SimpleNamespace(tools=None, chat_format=SimpleNamespace(images=None))
        adapters = SimpleNamespace(active={}, choices=(), assistant=assistant, base=lambda: None)
        module._converse(Session(adapters, Config()))
        return waiting, capsys.readouterr()

    return play


CTRL_C = ("Ctrl-C", "")


def test_twice_on_an_empty_line_leaves(converse):
    waiting, said = converse(CTRL_C, CTRL_C, "never asked")
    assert waiting == ["never asked"]
    assert "Ctrl-C once more leaves" in said.err


def test_once_does_not_and_a_question_between_counts_anew(converse):
    waiting, _ = converse(CTRL_C, "question", CTRL_C, "question", "exit")
    assert waiting == []


def test_a_typed_line_is_cleared_and_never_leaves(converse):
    waiting, said = converse(("Ctrl-C", "half a line"), ("Ctrl-C", "another"), "exit")
    assert waiting == []
    assert "once more" not in said.err


def test_an_answer_is_ended_and_the_session_goes_on(converse):
    waiting, said = converse("question", "question", "exit", answers="interrupted")
    assert waiting == []
    assert said.err.count("(interrupted)") == 2


def test_a_command_is_ended_and_the_session_goes_on(converse, monkeypatch):
    def slow(session, words):
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.COMMANDS, "/compare", commands.Command("", "", slow))
    waiting, said = converse("/compare x", "exit")
    assert waiting == []
    assert "stopped" in said.err


def test_help_names_it(converse):
    _, said = converse("/help", "exit")
    assert "  Ctrl-C " in said.err
