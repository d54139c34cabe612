import pytest
from conftest import family_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.data_processing import ChatFormat, Example, Message
from lorakit.data_processing.example import Rejected
from lorakit.data_processing.tokens.encoding import encode_row
from lorakit.engine import IGNORED_LABEL

CHAT_FORMAT = ChatFormat(family_tokenizer("llama"))


def encode(messages, max_length, chat_format=CHAT_FORMAT):
    return encode_row(Example(tuple(Message(*pair) for pair in messages), "row"), chat_format, max_length)


def trained_text(sequence):
    return CHAT_FORMAT.tokenizer.decode([label for label in sequence.labels if label != IGNORED_LABEL])


LONG = [("user", "一二三四五六七八九十" * 5), ("assistant", "好的。")]


def test_a_row_that_fits_is_not_touched():
    row = encode(LONG, 10_000)
    assert not row.is_cut


def test_a_longer_row_loses_the_beginning_of_its_prompt_but_no_token_of_its_answer():
    [whole] = encode(LONG, 10_000).sequences
    row = encode(LONG, 40)
    [cut] = row.sequences
    assert row.is_cut
    assert len(cut.input_ids) == 40
    assert trained_text(cut) == trained_text(whole) == "好的。<|eot_id|>"
    assert cut.input_ids[0] == CHAT_FORMAT.tokenizer.bos_token_id
    assert list(cut.input_ids[1:]) == list(whole.input_ids[-39:])


def test_a_row_whose_answer_does_not_fit_is_named_with_the_remedy():
    rejected = encode([("user", "q"), ("assistant", "长" * 100)], 20)
    assert isinstance(rejected, Rejected)
    assert "does not fit max_length 20; raise max_length" in rejected.reason


def test_an_earlier_answer_cut_apart_is_not_trained_in_part():
    turns = [("user", "甲" * 20), ("assistant", "乙" * 30), ("user", "丙"), ("assistant", "丁。")]
    [whole] = encode(turns, 10_000).sequences
    first_answer = next(i for i, label in enumerate(whole.labels) if label != IGNORED_LABEL)
    max_length = len(whole.input_ids) - first_answer - 10  # ends ten tokens inside the first answer
    [cut] = encode(turns, max_length).sequences
    assert trained_text(cut) == "丁。<|eot_id|>"


@pytest.mark.parametrize("token", ["<|eot_id|>", "<|begin_of_text|>"])
def test_an_answer_that_spells_out_a_control_token_is_named(token):
    rejected = encode([("user", "q"), ("assistant", f"it is {token}.")], 100)
    assert "spells out the control token" in rejected.reason
    assert token in rejected.reason


@pytest.mark.parametrize("token", ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>"])
def test_a_control_token_in_a_question_stays_text_in_training_and_in_asking(token):
    question = f"what is {token}{token} for?"
    [sequence] = encode([("user", question), ("assistant", "a")], 1000).sequences
    prompt = CHAT_FORMAT.prompt_ids([Message("user", question)])
    assert list(sequence.input_ids[: len(prompt)]) == prompt
    special = [token for token in prompt if token in CHAT_FORMAT.tokenizer.all_special_ids]
    assert special == [
        token
        for token in CHAT_FORMAT.prompt_ids([Message("user", "q")])
        if token in CHAT_FORMAT.tokenizer.all_special_ids
    ]
    assert question in CHAT_FORMAT.tokenizer.decode(prompt)


def test_a_noncharacter_that_stands_for_something_else_here_is_named():
    assert "U+FDD0" in encode([("user", "q\ufdd0"), ("assistant", "a")], 100).reason


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(lambda text: text.strip())


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3), max_length=st.integers(8, 120))
def test_whatever_the_row_it_is_trained_within_bounds_or_named(pairs, max_length):
    messages = [turn for q, a in pairs for turn in (("user", q), ("assistant", a))]
    row = encode(messages, max_length)
    if isinstance(row, Rejected):
        assert row.reason
        return
    for sequence in row.sequences:
        assert len(sequence.input_ids) == len(sequence.labels) <= max_length
        assert sequence.targets > 0
        assert sequence.labels[0] == IGNORED_LABEL
        last = [label for label in sequence.labels if label != IGNORED_LABEL][-1]
        assert last == CHAT_FORMAT.end_of_turn_id


def test_an_answer_that_is_not_trained_is_context_only():
    turns = [Message("user", "a"), Message("assistant", "b", is_trained=False), Message("user", "c")]
    [sequence] = encode_row(Example((*turns, Message("assistant", "d")), "row"), CHAT_FORMAT, 1024).sequences
    [whole] = encode([("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")], 1024).sequences
    assert sequence.input_ids == whole.input_ids
    assert trained_text(whole) == "b<|eot_id|>d<|eot_id|>"
    assert trained_text(sequence) == "d<|eot_id|>"


def test_a_sequence_of_its_own_without_a_trained_answer_is_left_out():
    chat_format = ChatFormat(family_tokenizer("qwen3"))  # rewrites history: one sequence for each answer that reasons
    thoughts = [Message("user", "a"), Message("assistant", "b", is_trained=False, reasoning="x"), Message("user", "c")]
    row = encode_row(Example((*thoughts, Message("assistant", "d", reasoning="y")), "row"), chat_format, 1024)
    assert [sequence.targets > 0 for sequence in row.sequences] == [True]
