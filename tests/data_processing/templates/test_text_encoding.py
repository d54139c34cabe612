"""Answers are encoded as what continues their prompt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_kinds import KINDS, tokenizer_of

from lorakit.data_processing import ChatFormat, Message
from lorakit.data_processing.templates.text_encoding import SeamError, TextEncoder, _within_others

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=12)
PIECE = st.one_of(TEXT, st.sampled_from(["\n", "\n\n", " ", "<|end|>", "<think>", "1", "23", "'s", "a", "。"]))
TEXTS = st.lists(PIECE, max_size=6).map("".join)


def encoder_of(kind, rstrip=False):
    tokenizer = tokenizer_of(kind, "phi3", "<eos>", rstrip)
    return tokenizer, TextEncoder(
        tokenizer, dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    )


def test_only_byte_level_texts_are_cut_at_special_tokens():
    assert [encoder_of(kind)[1]._cut is not None for kind in KINDS] == [True, False, False, False]


@settings(max_examples=200, deadline=None)
@given(before=TEXTS, after=TEXTS)
def test_cutting_at_special_tokens_changes_nothing(before, after):
    tokenizer, encoder = encoder_of("byte-level")
    [(prompt, answer)] = encoder.encode_turns([(before, after)])
    assert prompt == tokenizer(before, add_special_tokens=False)["input_ids"]
    assert answer == encoder._continuation(before, prompt, after)


@pytest.mark.parametrize("rstrip", [False, True])
def test_nothing_is_put_before_an_answer(rstrip):
    """Phi-3's template and its kind of tokenizer: an answer encoded by itself would begin with a space."""
    tokenizer, _ = encoder_of("metaspace", rstrip)
    [turn] = (chat_format := ChatFormat(tokenizer)).turns([Message("user", "q"), Message("assistant", "The fox.")])
    [(prompt, answer)] = chat_format.encode_turns([turn])
    alone = tokenizer("The fox.", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(alone[:1])[0].startswith("▁")
    assert not any(token.startswith("▁") for token in tokenizer.convert_ids_to_tokens(answer[:1]))
    assert prompt + answer == tokenizer(turn.prompt + turn.answer, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_that_are_marked_stay_text(kind):
    tokenizer, encoder = encoder_of(kind)
    if kind == "unigram":  # whose words are all of its vocabulary
        with pytest.raises(SeamError, match="spells out '<eos>'"):
            encoder.encode("<|user|>\n" + encoder.guarded("a <|end|> b<eos>") + "<|end|>\n")
        return
    ids = encoder.encode("<|user|>\n" + encoder.guarded("a <|end|> b<eos>") + "<|end|>\n")
    special = [token for token in ids if token in tokenizer.all_special_ids and token != tokenizer.unk_token_id]
    assert tokenizer.convert_ids_to_tokens(special) == ["<|user|>", "<|end|>"]
    assert "a <|end|> b<eos>" in tokenizer.decode(ids)


@pytest.mark.parametrize("contents", [[], ["a", "a"], ["<a>", "<a>b", "c"], ["ab", "b", "xaby", "", "q"], ["x", "y"]])
def test_tokens_within_others_are_those_that_stand_in_any_of_them(contents):
    places = range(len(contents))
    wanted = {
        contents[one] for one in places if any(contents[one] in contents[other] for other in places if other != one)
    }
    assert _within_others(contents) == wanted


def test_tokens_that_would_take_hours_to_compare_are_not_cut_at():
    assert _within_others(["a" * length for length in range(1, 3000)]) is None
    assert _within_others([f"<{number}>" for number in range(20_000)]) == set()
