"""The last layer computes from the first trained token on, and nothing changes but the work."""

import pytest
import torch
from plain import adapted, gradients, reference
from tolerances import assert_computes
from trained import sequences

from lorakit.data_processing import EncodedExample
from lorakit.data_processing.tokens.packing import pack
from lorakit.engine import IGNORED_LABEL, PACKED, accelerate, summed_loss

FAMILIES = ("qwen3", "llama")
TOKENS = 40


def row(trained, seed=0):
    """A sequence of random tokens that is trained at these places."""
    ids = torch.randint(5, 60, (TOKENS,), generator=torch.Generator().manual_seed(seed)).tolist()
    labels = [token if place in trained else IGNORED_LABEL for place, token in enumerate(ids)]
    return EncodedExample(tuple(ids), tuple(labels), f"row {seed}")


def accelerated(folder):
    model = adapted(folder, PACKED)
    accelerate(model)
    return model


def watched(model):
    """Note how many tokens each layer's MLP computes."""
    seen = []
    for layer in model.get_base_model().model.layers:
        layer.mlp.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[1]))
    return seen


# Trained places; tokens up to the last that predicts one of them; those from the first that does.
ROWS = {
    "answers of two lengths": ([range(35, 40), range(38, 40)], 39 + 39, 5 + 2),
    "two turns": ([{20, 21, 30, 31}, {39}], 31 + 39, 12 + 1),
    "one row": ([{39}], 39, 1),
    "a row without any": ([{37}, ()], 37 + TOKENS, 1),
}


@pytest.mark.every(7)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ROWS)
def test_only_wanted_tokens_go_through_the_last_mlp_with_the_same_result(model_folder, family, name):
    trained, tokens, wanted_tokens = ROWS[name]
    rows = [row(set(places), seed) for seed, places in enumerate(trained)]
    folder = model_folder(family)
    wanted = reference(adapted(folder), [row for row in rows if row.targets])
    model = accelerated(folder)
    seen = watched(model)
    loss = summed_loss(model, pack(rows))
    loss.backward()
    assert seen == [tokens] * (len(seen) - 1) + [wanted_tokens]
    wanted.assert_met_by(loss, gradients(model))


def test_where_nearly_all_tokens_are_trained_nothing_is_left_out(model_folder):
    model = accelerated(model_folder("qwen3"))
    seen = watched(model)
    summed_loss(model, pack([row(set(range(2, TOKENS)))]))
    assert set(seen) == {TOKENS - 1}


def test_checkpointed_layers_leave_out_the_same(model_folder):
    rows = [row({37}), row({38, 39}, 1)]
    wanted = reference(adapted(model_folder("qwen3")), rows)
    model = accelerated(model_folder("qwen3"))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    loss = summed_loss(model, pack(rows))
    loss.backward()
    wanted.assert_met_by(loss, gradients(model))


def test_generation_goes_through_the_whole_layer(model_folder):
    model = accelerated(model_folder("qwen3")).eval()
    ids = torch.tensor([sequences()[0].input_ids])
    with torch.no_grad():
        plain = adapted(model_folder("qwen3")).eval()
        assert_computes([model(input_ids=ids).logits], lambda: [plain(input_ids=ids).logits])
