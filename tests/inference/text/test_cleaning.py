import pytest
from hypothesis import given
from hypothesis import strategies as st
from repetition_samples import LEGITIMATE, LOOPS

from lorakit.inference.text.cleaning import clean_repetition, echo_length, is_hopeless


@pytest.mark.parametrize("name", LEGITIMATE)
def test_legitimate_repetition_is_not_harmed(name):
    assert clean_repetition(LEGITIMATE[name]) == LEGITIMATE[name]


@pytest.mark.parametrize(("text", "cleaned"), LOOPS)
def test_loops_are_cut_to_their_first_copy(text, cleaned):
    assert clean_repetition(text) == cleaned


@given(st.text(alphabet="ab。\n ", max_size=120))
def test_cleaning_twice_changes_nothing_more(text):
    cleaned = clean_repetition(text)
    assert clean_repetition(cleaned) == cleaned
    assert len(cleaned) <= len(text)


def test_only_a_long_loop_at_the_end_is_hopeless():
    assert is_hopeless("好。" + "早睡早起身体好。" * 30)
    assert not is_hopeless("早睡早起身体好。" * 5)
    assert not is_hopeless("早睡早起身体好。" * 30 + "晚安。")
    assert not is_hopeless("x += 1\n" * 5)


@pytest.mark.parametrize(("text", "length"), [("", 0), ("a", 0), ("ab", 0), ("aa", 1), ("abcabc", 3), ("abcab", 2)])
def test_an_echo_is_what_repeats_right_before_the_end(text, length):
    assert echo_length(text) == length
