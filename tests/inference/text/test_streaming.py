import pytest
from conftest import examples, family_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from repetition_samples import LEGITIMATE, LOOPS

from lorakit.inference.text.cleaning import clean_repetition
from lorakit.inference.text.streaming import AnswerStream, IncrementalDecoder

TOKENIZER = family_tokenizer("gpt2")


def streamed(text):
    decoder = IncrementalDecoder(TOKENIZER)
    return [decoder.add(token) for token in TOKENIZER(text)["input_ids"]] + [decoder.finish()]


@pytest.mark.parametrize("text", ["睡眠质量", "😀👨‍👩‍👧 emoji", "plain words  with spaces\n", "é̀ñ"])
def test_no_piece_ever_holds_half_a_character(text):
    pieces = streamed(text)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(TOKENIZER(text)["input_ids"]) > 2


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: "<|" not in text))
def test_the_pieces_joined_are_the_text(text):
    assert "".join(streamed(text)) == TOKENIZER.decode(TOKENIZER(text)["input_ids"])


def test_half_a_character_at_the_very_end_is_shown_as_such():
    decoder = IncrementalDecoder(TOKENIZER)
    first_byte = TOKENIZER.convert_tokens_to_ids("æ")
    assert decoder.add(first_byte) == ""
    assert decoder.finish() == "\ufffd"


def shown(text, **options):
    stream = AnswerStream(**options)
    return [stream.add(character) for character in text] + [stream.finish()]


@pytest.mark.generated
@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(alphabet="ab，。\n", max_size=12),
            st.builds(lambda unit, copies: unit * copies, st.text(alphabet="甲乙。", max_size=9), st.integers(1, 9)),
        ),
        max_size=4,
    ).map("".join)
)
def test_no_text_is_ever_lost_or_taken_back(text):
    # Where cleaning the whole would contradict what was already shown, the rest stays as it is.
    assert "".join(shown(text)) in {clean_repetition(text[:end]) + text[end:] for end in range(len(text) + 1)}


def test_the_rest_of_a_text_with_loops_in_loops_is_shown():
    text = "".join(["。。乙" * 5, "乙。。" * 7, "乙。。" * 9, "。"])
    found = "".join(shown(text))
    assert found in {clean_repetition(text[:end]) + text[end:] for end in range(len(text) + 1)}
    assert found.endswith(text[-4:])


@pytest.mark.every(3)
@pytest.mark.parametrize(("text", "cleaned"), LOOPS)
def test_loops_are_not_shown(text, cleaned):
    assert "".join(shown(text)) == cleaned


@pytest.mark.parametrize("name", LEGITIMATE)
def test_legitimate_repetition_is_shown(name):
    assert "".join(shown(LEGITIMATE[name])) == LEGITIMATE[name]


def test_a_loop_is_never_shown_and_then_known_to_be_hopeless():
    stream = AnswerStream()
    text = "".join(stream.add(character) for character in "听我说：" + "早睡早起身体好。" * 30)
    assert text == "听我说：早睡早起身体好。"
    assert stream.is_hopeless
    assert stream.finish() == ""


def test_ordinary_text_is_shown_at_once():
    assert shown("abcdefg")[:-1] == list("abcdefg")


def test_without_cleaning_everything_is_shown_at_once():
    assert shown("早。" * 50, is_cleaned=False)[:-1] == list("早。" * 50)


def test_control_tokens_are_shown_where_calls_may_be_written_with_them():
    ids = TOKENIZER("a")["input_ids"] + [TOKENIZER.eos_token_id]
    for keeps_control, wanted in ((True, "a" + TOKENIZER.eos_token), (False, "a")):
        decoder = IncrementalDecoder(TOKENIZER, keeps_control)
        assert "".join([*(decoder.add(token) for token in ids), decoder.finish()]).endswith(wanted)
