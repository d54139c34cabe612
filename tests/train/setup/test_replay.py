"""``replay``: the base's own answers are trained with the rows, and are the same when a run goes on."""

import json
import shutil
from array import array

import pytest
import torch
from trained import ROWS, adapter_weights, assert_same_adapter, recorded
from transformers import AutoModelForCausalLM

from lorakit.config import Config
from lorakit.data_processing.example import EncodedExample, Example, Message
from lorakit.data_processing.tokens.columns import Writer
from lorakit.data_processing.tokens.sequences import Sequences, followed_by
from lorakit.errors import LorakitError
from lorakit.evaluate import forgetting
from lorakit.runs import RunIdentity, StepRecord, checkpoints, read_identity
from lorakit.train.planning import fitting
from lorakit.train.setup import replay
from lorakit.train.setup.general_questions import QUESTIONS
from lorakit.train.setup.replay import general_questions

THREE = ("--num_train_epochs", "1", "--set=replay=3", "--set=max_new_tokens=4")


def answers(folder):
    """Return the mark of a run, and the answers that it trains."""
    head, *lines = (folder / "replay.jsonl").read_text().splitlines()
    return json.loads(head)["run"], [json.loads(line) for line in lines]


def test_the_questions_brought_along_are_others_than_those_that_measure_forgetting():
    assert len(set(QUESTIONS)) == len(QUESTIONS) == 100
    assert not set(QUESTIONS) & set(forgetting.QUESTIONS)
    chinese = sum(any("一" <= letter <= "鿿" for letter in question) for question in QUESTIONS)
    assert chinese == 50


def test_answers_are_those_of_the_base_and_become_rows_of_their_own(command, capsys):
    code, folder = command(*THREE)
    assert code == 0
    mark, lines = answers(folder)
    identity = read_identity(folder)
    assert (mark, [line["text"] for line in lines]) == (identity.mark, list(QUESTIONS[:3]))
    rows = sum(record.rows for record in recorded(folder, StepRecord))
    assert rows == len(ROWS) + 3
    said = capsys.readouterr().err
    assert f"{len(ROWS)} rows from" in said
    assert "3 answers of the base to general questions" in said
    assert "answers of the base trained with the rows | 3" in (folder / "lora_model" / "README.md").read_text()


def test_the_answers_are_what_plain_transformers_generates_from_the_base(command, model_folder):
    _, folder = command(*THREE)
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    for line in answers(folder)[1]:
        prompt, answer = line["prompt_ids"], line["answer_ids"]
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == answer
        assert len(answer) <= 128


def test_a_run_that_goes_on_trains_the_same_answers_and_asks_nothing(command, monkeypatch):
    extra = ("--num_train_epochs", "2", "--set=replay=3", "--set=load_best_model=false")
    _, unbroken = command(*extra, folder="unbroken")
    _, broken = command(*extra, folder="broken")
    before = (broken / "replay.jsonl").read_bytes()
    shutil.rmtree(broken / "lora_model")
    shutil.rmtree(checkpoints(broken)[0])
    monkeypatch.setattr(fitting, "answers_of_base", lambda *_: pytest.fail("asked again"))
    assert command(*extra, "--set=resume=true", folder="broken")[0] == 0
    assert (broken / "replay.jsonl").read_bytes() == before
    assert_same_adapter(unbroken, broken, rtol=0, atol=0)


def test_a_plan_asks_nothing_and_counts_answers_as_long_as_they_may_be(command, monkeypatch, capsys):
    seen = []
    real = fitting.stand_ins
    monkeypatch.setattr(fitting, "answers_of_base", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(fitting, "stand_ins", lambda *given: seen.append(real(*given)) or seen[-1])
    code, folder = command("--set=replay=2", task="plan")
    assert code == 0
    assert [len(line.answer_ids) for line in seen[0].lines] == [128, 128]
    assert not folder.exists()
    tokens = sum(len(line.prompt_ids) + 128 for line in seen[0].lines)
    assert f"2 answers of the base, at most {tokens} tokens; the time to ask" in capsys.readouterr().out


@pytest.mark.every(3)
@pytest.mark.parametrize("change", ["gone", "another mark", "another answer"])
def test_answers_that_are_missing_or_changed_end_a_run_that_goes_on(command, capsys, change):
    _, folder = command(*THREE)
    file, kept = folder / "replay.jsonl", adapter_weights(folder)
    if change == "gone":
        file.unlink()
    elif change == "another mark":
        file.write_text(file.read_text().replace(answers(folder)[0], "0" * 32))
    else:
        head, first, *others = file.read_text().splitlines()
        line = json.loads(first)
        line["answer_ids"][0] += 1
        file.write_text("\n".join([head, json.dumps(line), *others]) + "\n")
    assert command(*THREE, "--set=resume=true")[0] == 2
    assert "the answers of the base that this run trains are missing or changed" in capsys.readouterr().err
    assert all(torch.equal(value, kept[name]) for name, value in adapter_weights(folder).items())


def test_another_number_of_answers_is_another_run(command, capsys):
    command(*THREE)
    assert command("--num_train_epochs", "1", "--set=resume=true")[0] == 2
    said = capsys.readouterr().err
    assert "replay was 3 and is 0" in said
    assert "the replayed answers of the base have changed" in said


def test_by_force_a_run_goes_on_with_as_many_answers_as_are_asked_for(command):
    _, folder = command(*THREE)
    assert command("--num_train_epochs", "2", "--set=replay=4", "--set=resume=force")[0] == 0
    assert [line["text"] for line in answers(folder)[1]] == list(QUESTIONS[:4])
    assert read_identity(folder).settings["replay"] == 4


def test_questions_of_a_file_are_taken_in_its_order(tmp_path):
    file = tmp_path / "general.json"
    file.write_text(json.dumps([{"text": "one?"}, {"text": "two?", "target": "left out"}, {"text": "three?"}]))
    assert general_questions(Config(replay=2, replay_file=str(file))) == ("one?", "two?")
    assert general_questions(Config(replay=0, replay_file=str(file))) == ()


@pytest.mark.parametrize(
    ("settings", "rows", "said"),
    [
        ({"replay": 101}, None, "101 questions are wanted where the list that lorakit brings has 100"),
        ({"replay": 3}, [{"text": "a?"}], "3 questions are wanted where "),
        (
            {"replay": 1},
            [{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a?"}]}],
            "question 1 of replay_file is no single question of text",
        ),
        ({"replay": 1, "replay_file": "nowhere.json"}, None, "nowhere.json"),
    ],
)
def test_too_few_questions_and_those_that_are_none_are_refused(tmp_path, settings, rows, said):
    file = tmp_path / "general.json"
    if rows is not None:
        file.write_text(json.dumps(rows))
    given = ({"replay_file": str(file)} if rows is not None else {}) | settings
    with pytest.raises(LorakitError) as caught:
        general_questions(Config(**given))
    assert said in caught.value.message


def test_no_room_for_answers_is_said_before_training(command, capsys):
    assert command(*THREE, "--set=max_length=12")[0] == 2
    assert "leaves no room for an answer (max_length 12)" in capsys.readouterr().err


def test_sequences_followed_by_others_are_both(tmp_path):
    def row(number):
        turns = (Message("user", f"q{number}"), Message("assistant", f"a{number}"))
        sequence = EncodedExample(array("i", [number, 7, 8]), array("i", [-100, 7, 8]), f"file item {number}")
        return Example(turns, f"file item {number}"), sequence

    writer = Writer()
    for number in (1, 2, 3):
        writer.add(row(number)[0], [row(number)[1]], is_cut=False)
    chosen = Sequences(writer.finished())
    both = followed_by(chosen, [row(4), row(5)])
    assert list(both) == [row(number)[1] for number in (1, 2, 3, 4, 5)]
    assert both.lengths().tolist() == [3] * 5
    assert followed_by(chosen, [row(4)]).digest() != both.digest() != chosen.digest()


def test_the_report_shows_what_was_forgotten_with_and_without(command, capsys):
    extra = ("--num_train_epochs", "2", "--set=max_new_tokens=8")
    command(*extra)
    assert "general questions" in capsys.readouterr().err
    code, folder = command(*extra, "--set=replay=3")
    assert code == 0
    before = json.loads((folder / "previous" / "1" / "eval_results.json").read_text())["forgetting"]
    now = json.loads((folder / "eval_results.json").read_text())["forgetting"]
    assert (before["replay"], now["replay"]) == (0, 3)
    shown = (folder / "report.html").read_text()
    for where, found in (("this run", now), ("previous/1", before)):
        assert f"<td>{where}</td><td>{found['replay']}</td><td>{found['nats']:.4f}</td>" in shown


@pytest.mark.parametrize(
    "question",
    [
        "a\u2028b?",
        "a\x85b?",
        "a\nb\x0bc\x0cd\x1ce?",
        "what is hf_abcdefghijklmnopqrstuvwxyz?",
        'password: abcde"x?',
        "https://user:secret@example.com?",
    ],
)
def test_answers_are_read_as_they_were_written_whatever_is_in_their_texts(tmp_path, question):
    line = replay._Line(text=question, generated=f"{question} {question}", prompt_ids=[1, 2], answer_ids=[3])
    replayed = replay.Replayed((line, line))
    replay.save_replayed(replayed, tmp_path, "mark")
    identity = RunIdentity({}, "", "", "", "float32", 1, replayed=replayed.digest, mark="mark")
    read = replay.read_replayed(tmp_path, identity)
    assert [sequence for _, sequence in read.rows] == [sequence for _, sequence in replayed.rows]
    assert len((tmp_path / "replay.jsonl").read_bytes().splitlines()) == 3
