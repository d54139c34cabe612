"""Every chat template of the installed ``trl``, with tokenizers of each kind, against ``apply_chat_template``."""

import pytest
from conftest import real_template
from template_rows import PARTS_ONLY, ROWS, spelled, written_by
from tokenizer_kinds import KINDS, template_names, tokenizer_of

from lorakit.data_processing import ChatFormat, Example
from lorakit.data_processing.example import Rejected
from lorakit.data_processing.tokens.encoding import encode_row
from lorakit.engine import IGNORED_LABEL

# The prompt ends with <think>, which finished turns do not have: the thought, an empty one too, is closed.
OPENED = ("deepseek_r1_distill", "deepseekv3")
# These leave out the thought of an answer without a call: it is written as they write that of one with a call.
LEFT_OUT = ("gemma4", "gemma4_v3", "gemma4_v4")
# This one writes no thought at all.
WITHOUT_THOUGHT = ("gemma4_v2",)
# This one ends no turn: the end-of-sequence token is appended.
WITHOUT_END = ("glm4moe",)


def check(name, kind):
    """Hold every row to what plain transformers makes of it."""
    tokenizer = tokenizer_of(kind, name, "<eos>")
    chat_format = ChatFormat(tokenizer)
    trained_rows = 0
    for row in ROWS:
        before, answer = row[:-1], row[-1]
        thinking = bool(answer.reasoning)
        prompt = written_by(tokenizer, name, before, add_generation_prompt=True, enable_thinking=thinking)
        whole = written_by(tokenizer, name, row, enable_thinking=thinking)
        outcome = encode_row(Example(row, "row"), chat_format, 10_000)
        if prompt is None or whole is None or answer.content.strip() not in whole[0]:
            assert isinstance(outcome, Rejected), row
            continue
        if name in WITHOUT_THOUGHT and any(message.reasoning for message in row):
            assert "no reasoning" in outcome.reason
            continue
        assert not isinstance(outcome, Rejected), (row, outcome)
        trained_rows += 1
        last = outcome.sequences[-1]
        ids, labels = list(last.input_ids), list(last.labels)
        written = len(prompt[1])
        assert ids[:written] == prompt[1] == chat_format.prompt_ids(before, thinking)
        assert labels[written - 1] == IGNORED_LABEL != labels[written]
        assert [label for label in labels[written:] if label != IGNORED_LABEL][-1] == chat_format.end_of_turn_id
        rest = expected_rest(name, answer, prompt[0], whole[0])
        end = [chat_format.end_of_turn_id] if name in WITHOUT_END else []
        if rest.removesuffix("<eos>" if end else "") == whole[0][len(prompt[0]) :] and whole[1][:written] == prompt[1]:
            assert ids == whole[1] + end, row
        elif tokenizer.convert_tokens_to_ids("<unk>") not in ids[written:]:
            assert spelled(tokenizer, ids[written:]) == rest, row
    assert trained_rows >= (30 if name == "gemma4_v2" else 35)


def expected_rest(name, answer, prompt, whole):
    """The text that follows the prompt."""
    reasoning = answer.reasoning or ""
    if name in OPENED:
        return f"{reasoning}\n</think>\n\n" + whole[len(prompt) - len("<think>\n") :]
    if name in LEFT_OUT and reasoning:
        return f"<|channel>thought\n{reasoning}\n<channel|>{whole[len(prompt) :]}"
    if not whole.startswith(prompt):  # of prose about the tags, Nemotron 3 writes no empty thought before it
        assert name.startswith("nemotron")
        assert "</think>" in answer.content
        return whole[len(prompt) - len("<think></think>") :]
    return whole[len(prompt) :] + ("<eos>" if name in WITHOUT_END else "")


@pytest.mark.every(5)
@pytest.mark.parametrize(("name", "kind"), [(name, KINDS[n % 4]) for n, name in enumerate(template_names())])
def test_a_template_is_trained_as_transformers_writes_it(name, kind):
    check(name, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", template_names())
def test_so_it_is_with_every_kind_of_tokenizer(name, kind):
    check(name, kind)


# What the variants for training mark too, and lorakit does not train: the end of what inference feeds, which is not
# generated, and what follows the end of turn, at which generation has stopped.
BEFORE = {"", "\n", "<|start|>assistant", "<think>\n", "<think></think>", "<think>\n\n</think>\n\n"}
AFTER = {"", "\n", "\n<eos>", "<|END_OF_TURN_TOKEN|>"}


def training_variant(name):
    try:
        return real_template(f"{name}_training")
    except FileNotFoundError:
        return real_template(name) if "generation %}" in real_template(name) else None


@pytest.mark.every(5)
@pytest.mark.parametrize("name", [name for name in template_names() if training_variant(name)])
def test_what_is_trained_is_what_the_variant_for_training_marks(name):
    if name in OPENED + WITHOUT_END:
        pytest.skip("the variant writes other texts than inference meets")
    tokenizer = tokenizer_of("byte-level", name, "<eos>")
    chat_format = ChatFormat(tokenizer_of("byte-level", name, "<eos>"))
    tokenizer.chat_template = training_variant(name)
    compared = 0
    for row in ROWS[:24] + ROWS[25:28]:
        if name == "diffusion_gemma" and not row[-1].content.isascii():
            continue  # at the end of a block transformers' mask misses the last bytes of a character
        outcome = encode_row(Example(row, "row"), chat_format, 10_000)
        turns = [{"role": message.role, "content": message.content} for message in row]
        if name in PARTS_ONLY:
            turns = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
        if row[-1].reasoning:
            turns[-1] |= {"reasoning_content": row[-1].reasoning}
        how = {"return_dict": True, "return_assistant_tokens_mask": True, "enable_thinking": bool(row[-1].reasoning)}
        marked = tokenizer.apply_chat_template(turns, **how)
        [sequence] = outcome.sequences
        ids = list(sequence.input_ids)
        if ids != marked["input_ids"]:
            continue  # the variant writes something else
        compared += 1
        own = [place for place, label in enumerate(sequence.labels) if label != IGNORED_LABEL]
        theirs = [place for place, mark in enumerate(marked["assistant_masks"]) if mark]
        assert set(own) <= set(theirs)
        assert tokenizer.decode(ids[theirs[0] : own[0]]) in BEFORE
        assert tokenizer.decode(ids[own[-1] + 1 : theirs[-1] + 1]) in AFTER
        assert own == list(range(own[0], own[-1] + 1))
    assert compared >= 20
