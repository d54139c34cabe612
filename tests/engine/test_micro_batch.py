"""The unit of computation, made longer without a change of what it computes."""

import pytest
from plain import adapted, gradients, reference
from trained import sequences

from lorakit.data_processing.tokens.packing import pack
from lorakit.engine import PACKED, accelerate, summed_loss


@pytest.fixture(params=[0, 9], ids=["apart", "with a common beginning"])
def rows(request):
    return sequences(request.param)


def test_further_sequences_are_as_long_as_its_own_and_carry_no_loss(rows):
    batch = pack(rows, is_beginning_shared=True)
    longer = batch.lengthened(batch.tokens + 100)
    assert (longer.tokens, longer.targets) == (batch.tokens + 100, batch.targets)
    assert longer.row_lengths[: batch.rows] == batch.row_lengths
    assert max(longer.row_lengths) == max(batch.row_lengths)
    assert longer.position_ids.max() == batch.position_ids.max()


def test_they_change_neither_loss_nor_gradients(model_folder, rows):
    folder = model_folder("llama")
    wanted = reference(adapted(folder), rows)
    model = adapted(folder, PACKED)
    accelerate(model)
    loss = summed_loss(model, pack(rows, is_beginning_shared=True).lengthened(200))
    loss.backward()
    wanted.assert_met_by(loss, gradients(model))


def test_what_is_long_enough_stays_as_it_is(rows):
    batch = pack(rows)
    assert batch.lengthened(batch.tokens) is batch
