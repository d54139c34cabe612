"""Base against tuned: loss and answers on the same rows, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import Dataset, EncodedExample, Example
from lorakit.data_processing.tokens.packing import pack_under_budget
from lorakit.engine import LossSum, MicroBatch, Ranks, seed_of, shares_beginning, summed_loss, uncompiled
from lorakit.evaluate.metrics import AnswerScores, bleu_tokenizer, without_reasoning
from lorakit.evaluate.verdict import verdict
from lorakit.inference import Assistant
from lorakit.inference.generation import answer_batch, answer_text
from lorakit.inference.sampling import SamplingParams
from lorakit.inference.text.tool_calls import CallReader, same_calls
from lorakit.runs import PREDICTIONS_FILE, RESULTS_FILE, write_own_json, write_own_lines

_LOSS_TOKENS = 1024  # tokens in one forward pass of the loss: enough to be fast, few enough for a small machine
_SHOWN_ANSWERS = 5
METRIC_NAMES = {
    "loss": "loss (nats per target token)",
    "perplexity": "perplexity",
    "exact_match": "exact match (0-1)",
    "chrf": "chrF (0-100)",
    "bleu": "BLEU (0-100)",
    "rouge_l": "ROUGE-L (0-1)",
    "tool_calls": "calls with the right names and arguments (0-1)",
}
_ALONE = Ranks()
_ZERO = torch.zeros(1, 1, dtype=torch.long)
ONE_TOKEN = MicroBatch(_ZERO, _ZERO, _ZERO, row_starts=torch.tensor([0, 1]))


@dataclass(frozen=True)
class Answers:
    """One question and what was answered.

    Attributes:
        question: The last turn before the answer.
        reference: What was expected.
        by_model: What each model answered.
        calls: Where a call is expected, whether each model's calls have its name and arguments.
    """

    question: str
    reference: str
    by_model: dict[str, str]
    calls: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What an evaluation found.

    Attributes:
        data: The file that was evaluated.
        scores: For ``base`` and ``tuned``: loss, perplexity, exact_match, chrf, bleu, rouge_l, rows, target_tokens,
            bleu_rows, generated_rows; tool_calls where some are expected.
        shown: The first few questions with their answers.
        verdict: All of it in one sentence.
    """

    data: str
    scores: dict[str, dict[str, Any]]
    shown: tuple[Answers, ...]
    verdict: str = ""

    @property
    def results(self) -> dict[str, Any]:
        """As eval_results.json has them."""
        return {"data": self.data, **self.scores}


def dataset_loss(
    model: Any,
    sequences: Sequence[EncodedExample],
    device: torch.device,
    passes: Callable[[int], int] = int,
) -> LossSum:
    """Sum the loss over sequences, in packed forward passes that keep no logits.

    Args:
        model: Left in the mode that it was in.
        sequences: Rows, or this process's share of them.
        device: Of the model.
        passes: From the passes that these sequences take to those to be made, for ranks of a sharded model, which
            must all make as many.
    """
    total = LossSum()
    was_training = model.training
    model.eval()
    micro_batches = list(pack_under_budget(sequences, _LOSS_TOKENS, shares_beginning(model)))
    surplus = passes(len(micro_batches)) - len(micro_batches)
    with torch.inference_mode(), uncompiled():
        for micro_batch in micro_batches:
            nats = summed_loss(model, micro_batch.to(device))
            total += LossSum(nats.item(), micro_batch.targets)
        for _ in range(surplus):
            summed_loss(model, ONE_TOKEN.to(device))
    model.train(was_training)
    return total


def compare(
    assistant: Assistant,
    dataset: Dataset,
    config: Config,
    most_rows: int | None,
    folder: Path,
    ranks: Ranks = _ALONE,
    trained_on: str | None = None,
) -> Comparison:
    """Evaluate the base model and, where there is one, its adapter; leave the results in ``folder``.

    Args:
        assistant: Base model, with or without an adapter.
        dataset: The rows.
        config: The generation settings.
        most_rows: Answer only the first so many rows; None answers all. The loss is always over all.
        folder: Receives eval_results.json, and predictions.jsonl with every answer, in the order of the rows.
        trained_on: The name of the training rows, where it is known.
        ranks: Share the rows; all of them return the whole comparison, the first one writes it.

    Raises:
        ModelError: The model's files were written to meanwhile; nothing is left in the folder.
    """
    names = ["base", "tuned"] if assistant.has_adapter else ["base"]
    asked = _answerable(assistant, list(_with_calls(dataset.examples[:most_rows])), config.max_length)
    scores: dict[str, dict[str, Any]] = {}
    for name in names:
        with _as(assistant, name):
            own = dataset_loss(assistant.bundle.model, ranks.share(dataset.encoded), assistant.bundle.device)
        loss = sum(ranks.collect([own]), LossSum())
        scores[name] = {"loss": loss.mean, "perplexity": loss.perplexity}
        scores[name] |= {"rows": len(dataset.examples), "target_tokens": loss.targets}
    found = dict(ranks.collect(_answered(assistant, ranks.share(asked), config, names)))
    answered = [found[row.place] for row in asked]
    tokenizer = bleu_tokenizer(answers.reference for answers in answered)
    for name in names:
        own_scores = AnswerScores(tokenizer)
        for answers in answered:
            own_scores.add(answers.by_model[name], answers.reference)
        scores[name] |= own_scores.summary() | {"generated_rows": len(asked)}
        if calls := [answers.calls[name] for answers in answered if answers.calls]:
            scores[name]["tool_calls"] = sum(calls) / len(calls)
    assistant.bundle.source.check_in_use()
    if ranks.is_first:
        lines = (_line(row.example, answers) for row, answers in zip(asked, answered, strict=True))
        write_own_lines(folder, PREDICTIONS_FILE, lines)
    sentence = verdict(scores, dataset.name == trained_on)
    comparison = Comparison(dataset.name, scores, tuple(answered[:_SHOWN_ANSWERS]), sentence)
    if ranks.is_first:
        write_own_json(folder, RESULTS_FILE, comparison.results)
    return comparison


@dataclass(frozen=True)
class _Row:
    """A row that is asked, its place in the file, and the tokens of its question."""

    place: int
    example: Example
    prompt: list[int]


def _with_calls(examples: Sequence[Example]) -> Iterator[Example]:
    """Yield each row, and before it the row up to each of its calls: the last answer alone is seldom one."""
    for example in examples:
        for place, message in enumerate(example.messages[:-1]):
            if message.tool_calls and message.is_trained is not False:
                yield replace(example, messages=example.messages[: place + 1])
        yield example


def _answerable(assistant: Assistant, examples: Sequence[Example], max_length: int) -> list[_Row]:
    """Return the rows whose question leaves the model room for an answer, and name the others; and what is cut."""
    limit = getattr(assistant.bundle.model.config.get_text_config(), "max_position_embeddings", None)
    rows = []
    for place, example in enumerate(examples):
        whole = len(assistant.prompt_ids(example.messages[:-1]))
        prompt = assistant.asked_ids(example.messages[:-1], _expected(assistant, example), max_length)
        tokens = len(prompt)
        if tokens < whole:
            console.warn(
                f"{example.origin}: its question of {whole} tokens is asked without its beginning, as it is trained "
                f"(max_length {max_length})"
            )
        if limit and tokens >= limit:
            console.warn(
                f"{example.origin}: is not answered: its question of {tokens} tokens leaves no room in this model's "
                f"{limit}"
            )
        else:
            rows.append(_Row(place, example, prompt))
    return rows


def _line(example: Example, answers: Answers) -> dict[str, Any]:
    record: dict[str, Any] = {"origin": example.origin, "text": answers.question, "target": answers.reference}
    if images := example.messages[-2].images:
        record["images"] = list(images)
    return record | answers.by_model


def show_comparison(comparison: Comparison) -> None:
    """Print the verdict, the scores and a few answers side by side."""
    console.result(comparison.verdict)
    console.result()
    scores = comparison.scores
    counts = next(iter(scores.values()))
    labels = {key: label for key, label in METRIC_NAMES.items() if key in counts}
    rows = [[label, *(_number(found[key]) for found in scores.values())] for key, label in labels.items()]
    answered, long_enough = counts["generated_rows"], counts["bleu_rows"]
    console.result(f"{comparison.data}: {counts['rows']} rows, {counts['target_tokens']} target tokens")
    if long_enough != answered:
        console.result(f"{long_enough} of the {answered} rows have the four words that BLEU needs")
    console.table("scores", ["", *scores], rows)
    answers = [
        [_clipped(text) for text in (answers.question, answers.reference, *answers.by_model.values())]
        for answers in comparison.shown
    ]
    console.table("answers", ["question", "expected", *scores], answers)


def _as(assistant: Assistant, name: str) -> Any:
    return assistant.without_adapter() if name == "base" else nullcontext()


def _answered(
    assistant: Assistant, rows: Sequence[_Row], config: Config, names: list[str]
) -> Iterator[tuple[int, Answers]]:
    """Answer all rows, similar lengths together, each batch by every model before the next batch."""
    reader = CallReader.of(assistant.chat_format)
    order = sorted(rows, key=lambda row: len(row.prompt))
    params = SamplingParams.of(config)
    with console.progress(len(order), "answering") as bar:
        for start in range(0, len(order), config.per_device_eval_batch_size):
            batch = order[start : start + config.per_device_eval_batch_size]
            conversations = [row.example.messages[:-1] for row in batch]
            seeds = [seed_of(config.seed, row.place) for row in batch]
            prompts = [row.prompt for row in batch]
            by_model = {}
            for name in names:
                with _as(assistant, name):
                    by_model[name] = answer_batch(assistant, conversations, params, seeds, prompts)
            for number, row in enumerate(batch):
                texts = {name: without_reasoning(answers[number]) for name, answers in by_model.items()}
                question, reference = row.example.messages[-2], _expected(assistant, row.example)
                calls = _judged_calls(assistant, row.example, texts, reader)
                yield row.place, Answers(question.content, reference, texts, calls)
            bar.update(start + len(batch))


def _expected(assistant: Assistant, example: Example) -> str:
    """Return the answer of a row as a model would write it."""
    answer = example.messages[-1]
    if not answer.tool_calls:
        return without_reasoning(answer.content)
    *_, turn = assistant.chat_format.turns(example.messages)
    written = replace(turn, answer=turn.answer.partition(assistant.chat_format.end_of_turn)[0])
    [(_, ids)] = assistant.chat_format.encode_turns([written])
    return without_reasoning(answer_text(assistant, ids, has_tools=True))


def _judged_calls(assistant: Assistant, example: Example, texts: dict[str, str], reader: CallReader) -> dict[str, bool]:
    tools, wanted = assistant.tools_of(example.messages), example.messages[-1].tool_calls
    if not wanted or not reader.is_known:
        return {}
    return {name: same_calls(reader.read(text, tools).calls, wanted) for name, text in texts.items()}


def _clipped(text: str, most: int = 100) -> str:
    """Shorten a text for a table; predictions.jsonl has it whole."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"
