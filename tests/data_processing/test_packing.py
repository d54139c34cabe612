from array import array

from lorakit.data_processing import EncodedExample
from lorakit.data_processing.packing import pack, pack_under_budget


def sequence(first, length):
    ids = array("i", range(first, first + length))
    return EncodedExample(ids, array("i", [-100, *ids[1:]]), "row")


def test_sequences_lie_end_to_end_with_positions_of_their_own():
    packed = pack([sequence(10, 3), sequence(20, 2)])
    assert packed.input_ids.tolist() == [[10, 11, 12, 20, 21]]
    assert packed.labels.tolist() == [[-100, 11, 12, -100, 21]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert packed.row_starts.tolist() == [0, 3, 5]
    assert packed.rows == 2


def test_a_budget_is_kept_in_order_and_a_longer_sequence_stands_alone():
    sequences = [sequence(0, 3), sequence(0, 3), sequence(0, 9), sequence(0, 4)]
    packed = list(pack_under_budget(sequences, 6))
    assert [batch.input_ids.shape[1] for batch in packed] == [6, 9, 4]
    assert [batch.rows for batch in packed] == [2, 1, 1]
