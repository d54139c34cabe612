"""What an adapter has cost of other answers: questions with and without it, and earlier runs with other replay."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from lorakit.config import load_config
from lorakit.evaluate import forgetting as module
from lorakit.evaluate.forgetting import (
    QUESTIONS,
    advise_replay,
    answers_of_base,
    forgetting,
    suggested_replay,
)
from lorakit.inference import open_assistant
from lorakit.runs import RunIdentity

NUMBERS = {"replay": 0, "nats": 0.5, "unchanged": 1, "questions": 8, "validation_loss": 1.5}


@pytest.fixture(scope="module")
def base(model_folder):
    """Return settings and an assistant without an adapter."""
    name = str(model_folder("llama"))
    given = ["torch_dtype=float32", "use_original_model=true", "max_new_tokens=9", "per_device_eval_batch_size=3"]
    config = load_config(None, {"model_name_or_path": name}, given)
    return config, open_assistant(config)


def test_the_base_answers_greedily_and_briefly_and_its_loss_is_that_of_plain_transformers(base, model_folder):
    config, assistant = base
    found = answers_of_base(assistant, config)
    assert [sequence.origin for sequence in found.sequences] == list(QUESTIONS)
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    nats, targets = 0.0, 0
    for sequence in found.sequences:
        ids = torch.tensor([list(sequence.input_ids)])
        labels = torch.tensor([list(sequence.labels)])
        scores = model(ids).logits[0, :-1].log_softmax(-1)
        answer = labels[0, 1:] != -100
        assert scores.argmax(-1)[answer].tolist() == labels[0, 1:][answer].tolist()
        nats -= scores[answer].gather(1, labels[0, 1:][answer][:, None]).sum().item()
        targets += int(answer.sum())
    assert found.nats == pytest.approx(nats / targets, rel=1e-5)
    assert max(sum(label != -100 for label in sequence.labels) for sequence in found.sequences) <= 9
    assert found.forgotten(assistant.bundle.model, assistant.bundle.device) == 0


def test_where_answers_are_of_a_few_tokens_nothing_is_asked(base, tmp_path):
    config, assistant = base
    brief = config.model_copy(update={"max_new_tokens": 7})
    assert answers_of_base(assistant, brief) is None
    assert forgetting(assistant, brief, tmp_path, "rows.json", 1.0) is None


def leave_run(folder, replay, results=None, **changes):
    """Write what a run leaves of its identity and its results."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"replay": replay, "lora_r": changes.pop("rank", 8)}
    identity = RunIdentity(settings, "rows", "base", "template", "float32", 1)
    replace(identity, **changes).save(folder)
    content = {"data": "rows.json", "forgetting": NUMBERS | {"replay": replay}} if results is None else results
    (folder / "eval_results.json").write_text(json.dumps(content))


def test_earlier_runs_that_differ_in_replay_alone_stand_beside_it(base, tmp_path):
    config, assistant = base
    leave_run(tmp_path, 20)
    leave_run(tmp_path / "previous" / "1", 0, {"data": "rows.json", "forgetting": NUMBERS | {"nats": 0.9}})
    leave_run(tmp_path / "previous" / "2", 0)
    leave_run(tmp_path / "previous" / "3", 20)
    leave_run(tmp_path / "previous" / "4", 5, rank=16)
    leave_run(tmp_path / "previous" / "5", 6, rows="others")
    leave_run(tmp_path / "previous" / "6", 7, {"data": "others.json", "forgetting": NUMBERS | {"replay": 7}})
    leave_run(tmp_path / "previous" / "7", 8, {"data": "rows.json"})
    leave_run(tmp_path / "previous" / "8", 9, {"data": "rows.json", "forgetting": NUMBERS | {"nats": "many"}})
    leave_run(tmp_path / "previous" / "mine", 10)
    found = forgetting(assistant, config, tmp_path, "rows.json", 1.25)
    own, earlier = found.runs
    assert (own.where, own.replay, own.nats, own.validation_loss) == (None, 20, 0.0, 1.25)
    assert (own.unchanged, own.questions) == (8, 8)
    assert (earlier.where, earlier.replay, earlier.nats) == ("previous/2", 0, 0.5)


@pytest.mark.parametrize(("nats", "is_said"), [(0.05, False), (0.5, True)])
def test_replay_is_advised_where_much_is_forgotten(monkeypatch, nats, is_said):
    said = []
    monkeypatch.setattr(module.console, "note", said.append)
    advise_replay(nats, 100)
    assert bool(said) is is_said
    assert not said or "--set replay=25" in said[0]


def test_as_many_answers_as_a_quarter_of_the_rows_are_suggested():
    assert [suggested_replay(rows) for rows in (1, 15, 100, 4000)] == [8, 8, 25, 100]
