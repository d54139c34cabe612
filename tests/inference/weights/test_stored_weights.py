"""Half the bytes only where they are the same numbers."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from lorakit.engine import Decoder, decoder_fault
from lorakit.inference.weights.stored_weights import stored_weights
from lorakit.model_config import ModelSource


@pytest.fixture
def stored(model_folder, tmp_path):
    """A float32 model whose files have bfloat16 numbers, and where they lie."""
    published = AutoModelForCausalLM.from_pretrained(model_folder("qwen3"), dtype=torch.bfloat16)
    published.save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    if fault := decoder_fault(model):
        pytest.skip(fault)
    return model, ModelSource("model", tmp_path / "model")


def logits(model, hold=None):
    decoder = Decoder(model, hold)
    decoder.open(1, 8)
    return decoder.step([5, 6, 7], [0, 0, 0], range(3), wants_logits=True)[1], decoder.weight_bytes


def test_answers_are_bit_for_bit_the_same_from_half_the_bytes(stored):
    model, source = stored
    wanted, whole_bytes = logits(model)
    found, read_bytes = logits(model, stored_weights(model, source))
    assert torch.equal(found, wanted)
    assert 2 * read_bytes == whole_bytes


def test_a_changed_weight_is_read_from_memory(stored):
    model, source = stored
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] += 2.0**-12
    wanted, _ = logits(model)
    assert torch.equal(logits(model, stored_weights(model, source))[0], wanted)


def test_files_that_are_gone_or_damaged_do_no_harm(stored):
    model, source = stored
    wanted, whole_bytes = logits(model)
    file = source.folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert logits(model, stored_weights(model, source))[1] == whole_bytes
    file.unlink()
    found, read_bytes = logits(model, stored_weights(model, source))
    assert torch.equal(found, wanted)
    assert read_bytes == whole_bytes
