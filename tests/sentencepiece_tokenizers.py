"""Small tokenizers with the steps of Gemma's, Phi-3's and gpt-oss's own, trained on the project's rows."""

from __future__ import annotations

import json

from conftest import TRAIN_FILE, real_template
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

SPACE = "\u2581"
SPLIT_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _texts() -> list[str]:
    rows = json.loads(TRAIN_FILE.read_text(encoding="utf-8"))
    return [row["text"] + row["target"] for row in rows] + ["The quick brown fox is quicker than you think."] * 9


def _sentencepiece(special: list[str], normalizer: normalizers.Normalizer) -> Tokenizer:
    """A vocabulary whose merges are every way to make each token, as transformers makes them of SentencePiece's."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    letters = [SPACE, "\n", *map(chr, range(33, 127))]
    trainer = trainers.BpeTrainer(vocab_size=800, initial_alphabet=letters, show_progress=False)
    core.train_from_iterator(_texts(), trainer)
    trained = json.loads(core.to_str())["model"]
    in_order = sorted(trained["vocab"], key=trained["vocab"].get)
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *in_order]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [
        (token[:end], token[end:])
        for token in in_order
        for end in range(1, len(token))
        if token[:end] in vocabulary and token[end:] in vocabulary
    ]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizer
    return made


def gemma() -> PreTrainedTokenizerFast:
    core = _sentencepiece(
        ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<table>"],
        normalizers.Replace(" ", SPACE),
    )
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"
    )
    turns = [AddedToken(token, normalized=False, special=True) for token in ("<start_of_turn>", "<end_of_turn>")]
    tokenizer.add_special_tokens({"extra_special_tokens": turns})
    tokenizer.add_tokens([AddedToken("<table>", normalized=False)])
    tokenizer.chat_template = real_template("gemma")
    return tokenizer


def phi3() -> PreTrainedTokenizerFast:
    core = _sentencepiece(
        ["<unk>", "<s>", "</s>"],
        normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]),
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="<|endoftext|>", unk_token="<unk>", pad_token="<|endoftext|>"
    )
    turns = ["</s>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    added = [AddedToken(token, normalized=False, special=True, rstrip=True) for token in turns]
    tokenizer.add_special_tokens({"extra_special_tokens": added})
    tokenizer.chat_template = real_template("phi3")
    return tokenizer


def gpt_oss() -> PreTrainedTokenizerFast:
    """Of tiktoken's kind: a piece that is a token is taken without merging."""
    core = Tokenizer(models.BPE())
    steps = [
        pre_tokenizers.Split(Regex(SPLIT_O200K), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    core.pre_tokenizer, core.decoder = pre_tokenizers.Sequence(steps), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        _texts(), trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    )
    core.model.ignore_merges = True
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|startoftext|>", eos_token="<|return|>", pad_token="<|endoftext|>"
    )
    turns = ["<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|call|>", "<|constrain|>"]
    tokenizer.add_special_tokens({"extra_special_tokens": turns})
    tokenizer.chat_template = real_template("gptoss")
    return tokenizer


OWN_TOKENIZERS = {"gemma2": gemma, "phi3": phi3, "gpt_oss": gpt_oss}
