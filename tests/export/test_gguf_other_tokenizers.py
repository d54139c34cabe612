"""Tokenizers that llama.cpp reads in another way are refused by name."""

import json
from types import SimpleNamespace

import pytest

from lorakit.errors import ModelError
from lorakit.export.gguf.tokenizer import _definition


@pytest.mark.parametrize("model", [{"type": "WordPiece"}, {"type": "BPE", "end_of_word_suffix": "</w>"}])
def test_tokenizers_of_other_kinds_are_refused(model):
    core = SimpleNamespace(to_str=lambda: json.dumps({"model": model}))
    with pytest.raises(ModelError, match="GGUF is written for BPE tokenizers, which this model's is not"):
        _definition(SimpleNamespace(backend_tokenizer=core))
