from contextlib import contextmanager

from lorakit.config import Config
from lorakit.evaluate import forgetting
from lorakit.evaluate.forgetting import QUESTIONS, general_answers


class Switched:
    """Stands for an assistant: says which of the two models is on."""

    is_tuned = True

    @contextmanager
    def without_adapter(self):
        self.is_tuned = False
        yield
        self.is_tuned = True


def asked(monkeypatch, config):
    """Answer with the name of the model; return what came of it and the settings of every batch."""
    settings = []

    def answer(assistant, conversations, config):
        settings.append(config)
        name = "tuned" if assistant.is_tuned else "base"
        return [f"<think>hm</think> {name}: {messages[-1].content}" for messages in conversations]

    monkeypatch.setattr(forgetting, "answer_batch", answer)
    return general_answers(Switched(), config), settings


def test_every_question_is_answered_by_both_in_batches_and_without_reasoning(monkeypatch):
    answers, settings = asked(monkeypatch, Config(per_device_eval_batch_size=3))
    assert [answer.question for answer in answers] == list(QUESTIONS)
    assert all(answer.base == f"base: {answer.question}" for answer in answers)
    assert all(answer.tuned == f"tuned: {answer.question}" for answer in answers)
    assert len(settings) == 2 * 3  # batches of 3, 3 and 2, for each model


def test_answers_are_greedy_and_brief_whatever_is_set(monkeypatch):
    _, settings = asked(monkeypatch, Config(temperature=0.9, repetition_penalty=1.3, max_new_tokens=512))
    assert {(one.temperature, one.repetition_penalty, one.max_new_tokens) for one in settings} == {(0.0, 1.0, 24)}
    _, settings = asked(monkeypatch, Config(max_new_tokens=8))
    assert {one.max_new_tokens for one in settings} == {8}


def test_where_answers_are_of_a_few_tokens_nothing_is_asked(monkeypatch):
    assert asked(monkeypatch, Config(max_new_tokens=7)) == ([], [])
