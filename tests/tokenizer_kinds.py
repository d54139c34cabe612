"""Small tokenizers of each kind that models come with, for any chat template."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files

from conftest import TRAIN_FILE, real_template
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

KINDS = ("byte-level", "metaspace", "legacy metaspace", "unigram")
_CONTROL = re.compile(r"</?s>|<[^<>\s'\"{}()=+/\\,]{2,40}>")
_NO_CONTROL = ("<think>", "<image>", "<video>", "<tool_call>", "<tool_response>", "<tools>")


def template_names() -> list[str]:
    """Every chat template of the installed ``trl``, without those made for training."""
    names = (path.name for path in (files("trl") / "chat_templates").iterdir())
    return sorted(
        name.removesuffix(".jinja")
        for name in names
        if name.endswith(".jinja") and not name.endswith("_training.jinja")
    )


def tokenizer_of(kind: str, template: str, end: str, rstrip: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of one kind that has the control tokens of a template.

    Args:
        kind: One of `KINDS`.
        template: Its name.
        end: The end-of-sequence token.
        rstrip: Whether its control tokens swallow white space behind them, as those of Phi-3 do.
    """
    text = real_template(template)
    special = [token for token in dict.fromkeys(_CONTROL.findall(text)) if token not in _NO_CONTROL]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_core(kind)), eos_token=end, bos_token="<bos>"
    )
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [AddedToken(token, normalized=False, rstrip=rstrip) for token in special]}
    )
    tokenizer.chat_template = text
    return tokenizer


@cache
def _core(kind: str) -> str:
    rows = json.loads(TRAIN_FILE.read_text(encoding="utf-8"))
    texts = [row["text"] + row["target"] for row in rows] + ["The quick brown fox.", "user assistant system"] * 9
    special = ["<unk>", "<bos>", "<eos>"]
    if kind == "unigram":
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        core.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = [chr(code) for code in range(32, 127)] + ["\n"]
        core.train_from_iterator(
            texts,
            trainers.UnigramTrainer(
                vocab_size=800,
                special_tokens=special,
                unk_token="<unk>",
                initial_alphabet=alphabet,
                show_progress=False,
            ),
        )
        return core.to_str()
    if kind == "byte-level":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        core = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        if kind == "metaspace":  # legacy: false, as Phi-3 has it
            core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
            core.decoder = decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            )
        else:
            core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            core.decoder = decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            )
        alphabet = [chr(code) for code in range(33, 127)] + ["▁"]
        special = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    core.train_from_iterator(
        [text.replace(" ", "▁") for text in texts] if kind == "legacy metaspace" else texts,
        trainers.BpeTrainer(vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    settings = json.loads(core.to_str())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if not token["content"].startswith("<0x")]
    return json.dumps(settings)
