"""Decoder layers in two functions: the values of the layer's own forward, or its own forward itself."""

from dataclasses import replace

import pytest
import torch
from plain import adapted, gradients, loss_and_gradients, reference, wanted_of
from trained import sequences

from lorakit.data_processing.tokens.packing import pack
from lorakit.engine import PACKED, accelerate, summed_loss
from lorakit.engine.layers.install import restore
from lorakit.engine.ops import residual_blocks

# A way to change a model, and how many of its two layers are then computed in two functions.
CHANGES = {
    "nothing": (lambda model: None, 2),
    "a norm that is trained": (lambda model: layer_of(model).input_layernorm.requires_grad_(True), 1),
    "an MLP that is watched": (lambda model: layer_of(model).mlp.register_forward_hook(lambda *_: None), 1),
    "a projection that is trained": (lambda model: layer_of(model).mlp.up_proj.base_layer.requires_grad_(True), 1),
    "attention with dropout": (lambda model: setattr(layer_of(model).self_attn, "attention_dropout", 1e-9), 1),
}


def layer_of(model):
    return model.get_base_model().model.layers[0]


@pytest.fixture
def calls(monkeypatch):
    """Note each call of the two functions."""
    noted = []
    for block in (residual_blocks.AttentionBlock, residual_blocks.MlpBlock):
        forward = block.forward
        monkeypatch.setattr(
            block,
            "forward",
            staticmethod(lambda *given, forward=forward, block=block: noted.append(block) or forward(*given)),
        )
    return noted


@pytest.mark.every(7)
@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_asked_of_a_layer_its_values_are_its_own(model_folder, calls, family, change):
    make_change, layers = CHANGES[change]
    rows = [replace(row, labels=row.input_ids) for row in sequences(beginning=9)]  # so that the last layer is whole
    plain, model = adapted(model_folder(family)), adapted(model_folder(family), PACKED)
    for one in (plain, model):
        make_change(one)
    wanted = reference(plain, rows)
    accelerate(model)
    loss = summed_loss(model, pack(rows, is_beginning_shared=True))
    loss.backward()
    assert len(calls) == 2 * layers
    wanted.assert_met_by(loss, gradients(model))


def test_dropout_is_that_of_layers_made_of_many_functions(model_folder, monkeypatch):
    def step():
        torch.manual_seed(7)
        return summed_loss(model, pack(sequences()))

    model = adapted(model_folder("llama"), PACKED, lora_dropout=0.3)
    accelerate(model)
    fused = loss_and_gradients(model, step)
    monkeypatch.setattr("lorakit.engine.layers.decoder_layer._is_served", lambda *_: False)
    wanted_of(model, step).assert_met_by(*fused)


def test_without_gradients_or_packed_rows_the_layers_compute_as_before(model_folder, calls):
    model = adapted(model_folder("llama"), PACKED)
    accelerate(model)
    with torch.no_grad():
        summed_loss(model, pack(sequences()))
    model(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert not calls
    assert all(gradient.abs().sum() > 0 for gradient in gradients(model).values())


def test_checkpointed_layers_have_the_same_gradients(model_folder):
    found = []
    for is_checkpointed in (False, True):
        model = adapted(model_folder("qwen3"), PACKED)
        accelerate(model)
        if is_checkpointed:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        summed_loss(model, pack(sequences())).backward()
        found.append(gradients(model))
    assert all(torch.equal(found[1][name], gradient) for name, gradient in found[0].items())


def replaced(model):
    return {name for name, module in model.named_modules() if "forward" in vars(module)}


def test_layers_of_other_families_are_left_alone_and_an_adapter_more_does_not_prepare_them_twice(model_folder):
    model = adapted(model_folder("gpt2"))
    accelerate(model)
    assert not any(name.endswith((".h.0", ".h.1")) for name in replaced(model))
    model = adapted(model_folder("llama"))
    accelerate(model)
    forwards = {name: vars(module).get("forward") for name, module in model.named_modules()}
    assert sum(name.endswith((".layers.0", ".layers.1")) for name in replaced(model)) == 2
    accelerate(model)
    assert {name: vars(module).get("forward") for name, module in model.named_modules()} == forwards


def test_what_is_prepared_can_be_undone_and_left_out_by_name(model_folder):
    model = adapted(model_folder("llama"))
    accelerate(model, without={"norm", "lora_linear", "last_layer"})
    assert not any("norm" in name or "proj" in name for name in replaced(model))
    restore(model)
    accelerate(model)
    assert any("norm" in name for name in replaced(model))
    restore(model)
    assert not replaced(model)
