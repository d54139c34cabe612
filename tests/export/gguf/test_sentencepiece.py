"""Tokenizers of SentencePiece's kind, and of tiktoken's, in a GGUF file."""

import json

import pytest
from export_models import metadata, other_family, write
from gguf.constants import TokenType
from sentencepiece_tokenizers import OWN_TOKENIZERS, SPACE
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AddedToken

from lorakit.errors import ModelError


def written(family, tokenizer, tmp_path):
    model, _ = other_family(family, vocab_size=len(tokenizer))
    return metadata(write(model, tokenizer, tmp_path / "m.gguf"))


def changed(tokenizer, **parts):
    """The tokenizer with another content of its tokenizer.json."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"] |= parts
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    return tokenizer


@pytest.mark.parametrize("family", OWN_TOKENIZERS)
def test_a_tokenizer_is_written_as_its_kind_wants(family, tmp_path):
    tokenizer = OWN_TOKENIZERS[family]()
    found = written(family, tokenizer, tmp_path)
    assert found["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    types = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=True))
    if family == "gpt_oss":
        assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "gpt-4o")
        return
    assert found["tokenizer.ggml.model"] == "llama"
    assert found["tokenizer.ggml.add_space_prefix"] is (family == "phi3")
    assert types["<0x0A>"] == TokenType.BYTE
    assert types["<unk>"] == TokenType.UNKNOWN
    scores = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.scores"], strict=True))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    made = list(dict.fromkeys(left + right for left, right in merges))
    assert sorted(made, key=scores.get, reverse=True) == made
    assert ("phi-3" in found["general.name"]) is (family == "phi3")


def test_merges_that_scores_cannot_say_are_refused(tmp_path):
    tokenizer = OWN_TOKENIZERS["gemma2"]()
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    several = next(
        token
        for token in {left + right for left, right in merges}
        if len(token) > 2 and sum(left + right == token for left, right in merges) > 1
    )
    fewer = [merge for merge in merges if "".join(merge) != several or merge == merges[0]]
    one_way = next(merge for merge in merges if "".join(merge) == several)
    for others in (
        [*fewer, one_way],
        [
            *fewer[:1],
            one_way,
            *fewer[1:],
            *(merge for merge in merges if "".join(merge) == several and merge != one_way),
        ],
    ):
        with pytest.raises(ModelError, match="in an order that scores of tokens"):
            written("gemma2", changed(OWN_TOKENIZERS["gemma2"](), merges=others), tmp_path)


def test_other_preparations_of_text_are_refused(tmp_path):
    tokenizer = OWN_TOKENIZERS["gemma2"]()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "first", split=False)
    with pytest.raises(ModelError, match="prepares text in a way"):
        written("gemma2", tokenizer, tmp_path)


def test_tokens_that_swallow_white_space_are_refused_but_for_those_of_phi_3(tmp_path):
    tokenizer = OWN_TOKENIZERS["gemma2"]()
    tokenizer.add_tokens([AddedToken("<left>", lstrip=True)])
    with pytest.raises(ModelError, match="swallow white space"):
        written("gemma2", tokenizer, tmp_path)


def test_a_vocabulary_without_all_bytes_is_refused(tmp_path):
    tokenizer = OWN_TOKENIZERS["gemma2"]()
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
    renamed = {("<zero>" if token == "<0xE4>" else token): number for token, number in vocabulary.items()}
    with pytest.raises(ModelError, match="no token for the byte 228"):
        written("gemma2", changed(tokenizer, vocab=renamed), tmp_path)


def test_a_token_that_merges_do_not_make_keeps_its_splitting_from_a_name(tmp_path):
    tokenizer = OWN_TOKENIZERS["gpt_oss"]()
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    with pytest.raises(ModelError, match="splits text in a way"):
        written("gpt_oss", changed(tokenizer, merges=merges[1:]), tmp_path)
