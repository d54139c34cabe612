"""Families beside those of the fixtures: their GGUF files give back their logits, and windows are refused."""

import pytest
import torch
from agreement_models import small_model
from conftest import family_tokenizer
from export_models import loaded, logits, write

from lorakit.errors import ModelError
from lorakit.export.gguf_family import family_of, read_as

SETTINGS = {
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False, "sliding_window": None},
}


def model_of(family, **settings):
    tokenizer = family_tokenizer("qwen3")
    chosen = {"vocab_size": len(tokenizer), "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
    return small_model(family, **chosen, **SETTINGS[family], **settings), tokenizer


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", SETTINGS)
def test_in_f32_the_logits_are_those_of_the_source(family, tied, tmp_path):
    model, tokenizer = model_of(family, tie_word_embeddings=tied)
    if tied:
        model.tie_weights()
    file = write(model, tokenizer, tmp_path / "m.gguf")
    kind, config = read_as(type(model), model.config)
    assert isinstance(loaded(file, config), kind)
    torch.testing.assert_close(logits(loaded(file, config)), logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "fault"), [("mistral", "sliding_window: 64"), ("qwen2", "use_sliding_window: True")]
)
def test_a_window_shorter_than_the_context_is_refused(family, fault):
    model, _ = model_of(family)
    model.config.sliding_window, model.config.use_sliding_window = 64, True
    with pytest.raises(ModelError, match=fault):
        family_of(model.config)
