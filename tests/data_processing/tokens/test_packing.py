from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.data_processing import EncodedExample
from lorakit.data_processing.tokens.packing import fullest_rows, pack, pack_fullest_first, pack_under_budget


def sequence(first, length):
    ids = array("i", range(first, first + length))
    return EncodedExample(ids, array("i", [-100, *ids[1:]]), "row")


def test_sequences_lie_end_to_end_with_positions_of_their_own():
    packed = pack([sequence(10, 3), sequence(20, 2)])
    assert packed.input_ids.tolist() == [[10, 11, 20]]
    assert packed.next_ids.tolist() == [[11, 12, 21]]
    assert packed.position_ids.tolist() == [[0, 1, 0]]
    assert packed.row_starts.tolist() == [0, 2, 3]
    assert (packed.rows, packed.targets) == (2, 3)


def test_what_comes_after_the_last_prediction_is_left_out():
    template = with_prompt([1, 2], [3, 4])
    ends = EncodedExample(template.input_ids + array("i", [5]), template.labels + array("i", [-100]), "row")
    assert pack([ends]).input_ids.tolist() == [[1, 2, 3]]
    assert pack([ends]).next_ids.tolist() == [[-100, 3, 4]]


def test_a_row_without_targets_stays_whole():
    packed = pack([EncodedExample(array("i", [1, 2, 3]), array("i", [-100] * 3), "row")])
    assert (packed.tokens, packed.targets) == (3, 0)


def with_prompt(prompt, answer):
    return EncodedExample(array("i", prompt + answer), array("i", [-100] * len(prompt) + answer), "row")


SYSTEM = list(range(8))


def test_a_beginning_that_all_sequences_share_stands_once():
    rows = [with_prompt([*SYSTEM, 20], [30, 31]), with_prompt([*SYSTEM, 21, 22], [40])]
    packed = pack(rows, is_beginning_shared=True)
    assert packed.input_ids.tolist() == [[*SYSTEM, 20, 30, 21, 22]]
    assert packed.next_ids.tolist() == [[*[-100] * 8, 30, 31, -100, 40]]
    assert packed.position_ids.tolist() == [[*range(8), 8, 9, 8, 9]]
    assert (packed.shared_tokens, packed.row_lengths, packed.rows) == (8, [2, 2], 2)
    for part, row in zip(packed.split(), rows, strict=True):
        assert part.input_ids.tolist() == [list(row.input_ids[:-1])]
        assert part.next_ids.tolist() == [list(row.labels[1:])]
        assert part.position_ids.tolist() == [list(range(len(row.input_ids) - 1))]


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        (with_prompt([*SYSTEM, 9], [30]), with_prompt([*SYSTEM, 9], [30]), 8),  # the token before an answer predicts it
        (with_prompt(SYSTEM, [30]), with_prompt([*SYSTEM, 9], [31]), 0),
        (with_prompt([1, 2, 3, 20], [30]), with_prompt([1, 2, 3, 21], [30]), 0),  # too short to pay
        (with_prompt([], [30, 31]), with_prompt([], [30, 31]), 0),
    ],
)
def test_what_is_trained_is_never_shared(first, second, shared):
    assert pack([first, second], is_beginning_shared=True).shared_tokens == shared
    assert pack([first, second]).shared_tokens == 0
    assert pack([first], is_beginning_shared=True).shared_tokens == 0


def shapes(lengths, max_tokens):
    rows = [EncodedExample(array("i", range(length)), array("i", [-100] * length), "row") for length in lengths]
    return [batch.row_lengths for batch in pack_under_budget(rows, max_tokens)]


def test_a_budget_is_kept_and_a_longer_sequence_stands_alone():
    assert shapes([3, 3, 9, 4], 6) == [[9], [4], [3, 3]]


def test_micro_batches_are_as_few_and_as_even_as_can_be():
    assert shapes([600, 500, 400, 300], 1024) == [[600, 300], [500, 400]]
    assert shapes([5, 5, 5, 5], 10_000) == [[5, 5, 5, 5]]
    assert shapes([4, 4, 4], 6) == [[4], [4], [4]]
    assert shapes([], 6) == []


@given(lengths=st.lists(st.integers(1, 40), max_size=60), max_tokens=st.integers(1, 60))
def test_every_sequence_is_packed_once_within_the_budget(lengths, max_tokens):
    groups = shapes(lengths, max_tokens)
    assert sorted(length for group in groups for length in group) == sorted(lengths)
    assert all(sum(group) <= max_tokens or len(group) == 1 for group in groups)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 60))
def test_a_first_micro_batch_as_full_as_can_be_leaves_no_sequence_out(lengths, max_tokens):
    first, *others = pack_fullest_first([sequence(1, length) for length in lengths], max_tokens)
    packed = [length for batch in (first, *others) for length in batch.row_lengths]
    assert sorted(packed) == sorted(max(length - 1, 1) for length in lengths)
    room = max_tokens - first.tokens - first.rows  # the last token of a row is left out
    assert all(length + 1 > room for batch in others for length in batch.row_lengths)


def rows_of(*lengths):
    return [EncodedExample(array("i", range(length)), array("i", range(length)), "") for length in lengths]


@pytest.mark.parametrize(
    ("lengths", "most_rows", "budget", "wanted"),
    [
        ((10, 40, 20, 30), 2, 1000, [40, 30]),
        ((600, 500, 500), 3, 1024, [500, 500]),
        ((600, 500, 400, 20), 3, 1024, [600, 400, 20]),
        ((900, 2000, 900), 3, 1024, [2000]),
        ((7,), 8, 1024, [7]),
    ],
)
def test_the_rows_that_fill_a_micro_batch_most_are_chosen(lengths, most_rows, budget, wanted):
    chosen = fullest_rows(rows_of(*lengths), most_rows, budget)
    assert [len(row.input_ids) for row in chosen] == wanted
