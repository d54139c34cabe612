import json
from types import SimpleNamespace

import pytest
import torch
from conftest import FAMILIES
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorakit.cli import main
from lorakit.config import Config
from lorakit.data_processing import ChatFormat, Example, Message, load_dataset
from lorakit.data_processing.tokens.encoding import encode_row
from lorakit.engine import seed_of
from lorakit.evaluate import comparison
from lorakit.evaluate.comparison import dataset_loss
from lorakit.inference.sampling import RowSampling
from lorakit.model_config import load_tokenizer, locate_model

ROWS = [{"text": f"问题{number}？", "target": "答" * (number + 1)} for number in range(5)]
COUNTS = {"rows", "target_tokens", "bleu_rows", "generated_rows"}
KEYS = {"loss", "perplexity", "exact_match", "chrf", "bleu", "rouge_l"} | COUNTS


def dataset(folder, file):
    chat_format = ChatFormat(load_tokenizer(locate_model(str(folder), "huggingface")))
    return load_dataset(file, Config(), chat_format)


@pytest.mark.every(3)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens_a_pass", [40, 1024])
def test_the_loss_is_the_model_s_own_weighted_by_target_tokens(
    model_folder, write_rows, monkeypatch, family, tokens_a_pass
):
    monkeypatch.setattr(comparison, "_LOSS_TOKENS", tokens_a_pass)
    rows = dataset(model_folder(family), write_rows(ROWS))
    model = AutoModelForCausalLM.from_pretrained(model_folder(family), dtype=torch.float32).eval()
    nats = targets = 0
    for row in rows.encoded:
        ids, labels = torch.tensor([list(row.input_ids)]), torch.tensor([list(row.labels)])
        nats += model(input_ids=ids, labels=labels).loss.item() * row.targets
        targets += row.targets
    loss = dataset_loss(model.requires_grad_(False), rows.encoded, torch.device("cpu"))
    assert loss.targets == targets
    assert loss.nats == pytest.approx(nats, rel=1e-5)


def evaluate(model, file, output, *extra):
    arguments = ["--model_name_or_path", str(model), "--output_dir", str(output), "--max_new_tokens", "4"]
    return main(["--task", "evaluate", *arguments, f"--set=validation_file={file}", *extra])


def predicted(output):
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_base_alone_is_evaluated_without_an_adapter(model_folder, write_rows, tmp_path, capsys):
    file = write_rows(ROWS)
    assert evaluate(model_folder("llama"), file, tmp_path / "out", "--use_original_model") == 0
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert set(results) == {"data", "base"}
    assert set(results["base"]) == KEYS
    assert results["base"]["rows"] == results["base"]["generated_rows"] == 5
    output = capsys.readouterr()
    assert "ROUGE-L" in output.out
    assert "问题0？" in output.out
    assert "loaded" in output.err


def test_every_answer_is_written_and_the_number_of_answers_can_be_bounded(model_folder, write_rows, tmp_path):
    file = write_rows(ROWS)
    options = ("--use_original_model", "--set=max_generated_rows=3", "--set=per_device_eval_batch_size=2")
    evaluate(model_folder("llama"), file, tmp_path / "out", *options)
    predictions = predicted(tmp_path / "out")
    assert [prediction["text"] for prediction in predictions] == ["问题0？", "问题1？", "问题2？"]
    assert all(set(prediction) == {"origin", "text", "target", "base"} for prediction in predictions)
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert (results["base"]["rows"], results["base"]["generated_rows"]) == (5, 3)


@pytest.mark.every(3)
@pytest.mark.parametrize(
    ("family", "temperature"), [*((family, "0") for family in FAMILIES), ("llama", "1.5"), ("gpt2", "0.7")]
)
def test_batches_of_any_size_give_the_same_answers(model_folder, write_rows, tmp_path, family, temperature):
    file = write_rows(ROWS)
    answers = []
    for size in (1, 3, 5):
        output = tmp_path / str(size)
        evaluate(
            model_folder(family),
            file,
            output,
            "--use_original_model",
            *(f"--set=per_device_eval_batch_size={size}", "--temperature", temperature, "--top_p", "0.9"),
            "--set=torch_dtype=float32",
        )
        answers.append(predicted(output))
    assert answers[0] == answers[1] == answers[2]


def test_what_is_sampled_has_the_probabilities_of_the_model():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    scores = probabilities.log().expand(4000, 4)
    drawn = RowSampling([seed_of(7, place) for place in range(4000)], 1.0, 1.0)(None, scores).argmax(1)
    shares = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(shares, probabilities, rtol=0, atol=4 * 0.5 / 4000**0.5)  # four standard deviations


@pytest.mark.every(0)
@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_no_answer_is_cut_short_by_its_neighbours_and_a_question_without_room_is_named(
    model_folder, write_rows, tmp_path, capsys, family
):
    long, too_long = "龘" * 320, "龘" * 400  # of 3 bytes, each a token, where the model has 1024 positions
    rows = [{"text": text, "target": "好"} for text in ("短？", too_long, long)]
    lengths = {}
    for batch in (1, 3):
        output = tmp_path / str(batch)
        options = ("--use_original_model", "--max_new_tokens=900", f"--set=per_device_eval_batch_size={batch}")
        file = write_rows(rows)
        assert evaluate(model_folder(family), file, output, *options, "--set=torch_dtype=float32") == 0
        assert f"{file} item 2: is not answered: its question of" in capsys.readouterr().err
        answers = predicted(output)
        assert [answer["text"] for answer in answers] == ["短？", long]
        lengths[batch] = [len(answer["base"]) for answer in answers]
        assert json.loads((output / "eval_results.json").read_text())["base"]["generated_rows"] == 2
    assert lengths[1] == lengths[3]
    assert lengths[3][0] > 2 * lengths[3][1]


def test_results_are_json_for_strict_readers(model_folder, write_rows, tmp_path):
    folder = tmp_path / "certain"
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    model.lm_head.weight.data *= 1e5
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder("llama")).save_pretrained(folder)
    evaluate(folder, write_rows(ROWS), tmp_path / "out", "--use_original_model", "--set=torch_dtype=float32")

    def refuse(name):
        raise AssertionError(name)

    found = json.loads((tmp_path / "out" / "eval_results.json").read_text(), parse_constant=refuse)
    assert found["base"]["loss"] > 700
    assert found["base"]["perplexity"] is None


def test_nothing_to_evaluate_is_a_fault_of_the_settings(model_folder, tmp_path, capsys):
    assert evaluate(model_folder("llama"), "null", tmp_path / "out", "--use_original_model") == 2
    assert "validation_file: is null" in capsys.readouterr().err


def test_a_missing_adapter_is_named(model_folder, write_rows, tmp_path, capsys):
    assert evaluate(model_folder("llama"), write_rows(ROWS), tmp_path / "out") == 2
    assert "there is no adapter here" in capsys.readouterr().err


def test_calls_are_scored_by_names_and_arguments(model_folder, write_rows, tmp_path, monkeypatch, capsys):
    tools = [{"name": "weather", "parameters": {"type": "object", "properties": {"days": {"type": "integer"}}}}]
    call = {"name": "weather", "arguments": {"city": "Oslo", "days": 3}}
    asked = [{"role": "user", "content": "q"}]
    calling, other = (
        {"role": "assistant", "tool_calls": [one], "content": None} for one in (call, {**call, "name": "x"})
    )
    rest = [{"role": "tool", "content": "21"}, {"role": "assistant", "content": "Warm."}]
    rows = [
        {"tools": tools, "messages": [*asked, calling]},
        {"tools": tools, "messages": [*asked, other, *rest]},  # its call is asked for by itself
        {"tools": tools, "messages": [*asked, {**other, "weight": 0}, *rest]},
        {"tools": tools, "messages": [*asked, {"role": "assistant", "content": "No call is needed."}]},
        {"text": "no tools", "target": "a"},
    ]
    answer = '<tool_call>\n{"name": "weather", "arguments": {"days": 3.0, "city": "Oslo"}}\n</tool_call>'
    monkeypatch.setattr(comparison, "answer_batch", lambda _, conversations, *rest: [answer] * len(conversations))
    assert evaluate(model_folder("qwen3"), write_rows(rows), tmp_path / "out", "--use_original_model") == 0
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results["base"]["tool_calls"] == 0.5
    assert (results["base"]["rows"], results["base"]["generated_rows"]) == (5, 6)
    assert '"name": "weather"' in predicted(tmp_path / "out")[0]["target"]
    assert [line["target"] for line in predicted(tmp_path / "out")[2:]] == ["Warm.", "Warm.", "No call is needed.", "a"]
    assert "calls with the right names and arguments" in capsys.readouterr().out


def test_a_question_longer_than_max_length_is_asked_as_it_is_trained_and_named(
    model_folder, write_rows, tmp_path, capsys, monkeypatch
):
    from lorakit.inference import Assistant

    asked = []
    ids_of = Assistant.asked_ids

    def seen(self, messages, answer, max_length):
        ids = ids_of(self, messages, answer, max_length)
        asked.append(ids)
        return ids

    monkeypatch.setattr(Assistant, "asked_ids", seen)
    file = write_rows([{"text": "问" * 200, "target": "答"}, {"text": "短", "target": "答"}])
    options = ("--use_original_model", "--max_new_tokens=4", "--set=max_length=64", "--set=torch_dtype=float32")
    assert evaluate(model_folder("llama"), file, tmp_path / "out", *options) == 0
    assert f"{file} item 1: its question of" in (said := capsys.readouterr().err)
    assert "as it is trained (max_length 64)" in said
    assert "item 2" not in said
    chat_format = ChatFormat.of(load_tokenizer(locate_model(str(model_folder("llama")), "huggingface")), None, Config())
    messages = (Message("user", "问" * 200), Message("assistant", "答"))
    [sequence] = encode_row(Example(messages, "row"), chat_format, 64).sequences
    assert len(sequence.input_ids) == 64
    assert asked[0] == list(sequence.input_ids)[: 64 - sequence.targets]


def test_prompts_of_very_different_lengths_are_not_padded_to_each_other(monkeypatch):
    from lorakit.inference import generation

    monkeypatch.setattr(generation, "_room", lambda assistant, prompts: 10_000)
    monkeypatch.setattr(generation, "pieces_of", lambda model: SimpleNamespace(together=True, most_positions=None))
    monkeypatch.setattr(generation, "base_model", lambda model: model)
    assistant = SimpleNamespace(bundle=SimpleNamespace(model=None))
    lengths = [5000, 20, 30, 100, 400, 25]
    groups = list(generation._answered_together(assistant, [[0] * length for length in lengths], 8))
    assert [[lengths[place] for place in group] for group in groups] == [[20, 25, 30, 100], [400], [5000]]
