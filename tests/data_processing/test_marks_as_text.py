"""Templates whose marks are no tokens of their own (Llama 2, Vicuna, Alpaca), which a tokenizer cuts and joins."""

import json

import pytest
from conftest import TRAIN_FILE, real_template
from template_rows import ROWS, spelled, written_by
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lorakit.data_processing import ChatFormat, Example
from lorakit.data_processing.example import Rejected
from lorakit.data_processing.tokens.encoding import encode_row
from lorakit.engine import IGNORED_LABEL

SPACE = "\u2581"
LLAMA_2 = (
    "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '[INST] ' }}"
    "{% if system and loop.index0 == 1 %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ message.content.strip() + ' [/INST]' }}"
    "{% elif message.role == 'assistant' %}{{ ' ' + message.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MARKS = {"system": ("", "\n"), "user": ("USER: ", " "), "assistant": ("ASSISTANT: ", "</s>")}


def template(marks, ends_with=""):
    """A template that writes a mark before and behind each message; ``ends_with`` begins an answer."""
    cases = "".join(
        f"{{% if message.role == {role!r} %}}{{{{ {before!r} + message.content + {after!r} }}}}{{% endif %}}"
        for role, (before, after) in marks.items()
    )
    begun = f"{{% if add_generation_prompt %}}{{{{ {ends_with!r} }}}}{{% endif %}}"
    return f"{{% for message in messages %}}{cases}{{% endfor %}}{begun}"


TEMPLATES = {
    "Llama 2": LLAMA_2,
    "Mistral": LLAMA_2.replace(
        "{{ ' ' + message.content.strip() + ' ' + eos_token }}", "{{ message.content + '</s>' }}"
    ),
    "Vicuna": template(MARKS, "ASSISTANT:"),
    "a space before the answer": template(MARKS, "ASSISTANT: "),
    "Alpaca": template(
        {
            "system": ("", "\n\n"),
            "user": ("### Instruction:\n", "\n\n"),
            "assistant": ("### Response:\n", "</s>"),
        },
        "### Response:\n",
    ),
    "Zephyr": template(
        {role: (f"<|{role}|>\n", "</s>\n") for role in ("system", "user", "assistant")}, "<|assistant|>\n"
    ),
    "letters that join with the answer": template({"system": ("", "|"), "user": ("Q", "A"), "assistant": ("", "</s>")}),
    "Phi-3 with a tokenizer that has not its tokens": real_template("phi3"),
}
JOINED = (
    "<|assistant|>\nThe fox. so does",
    "[INST] hi there [/INST] The fox.</s>",
    "[/INST]The fox",
    "USER: hi ASSISTANT: The fox",
    "### Response:\nThe fox.\n\n",
    "QhiAThe fox",
)
KINDS = ("metaspace", "metaspace by word", "metaspace always", "legacy metaspace", "unigram")


def tokenizer_of(kind, text):
    """A tokenizer that has learnt to join marks with what follows them."""
    rows = json.loads(TRAIN_FILE.read_text(encoding="utf-8"))
    texts = [row["text"] + row["target"] for row in rows] + list(JOINED) * 20
    special = ["<unk>", "<s>", "</s>"]
    letters = [*map(chr, range(33, 127)), SPACE, "\n"]
    if kind == "unigram":
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        core.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.UnigramTrainer(
            vocab_size=600, special_tokens=special, unk_token="<unk>", initial_alphabet=letters, show_progress=False
        )
    else:
        core = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        if kind == "legacy metaspace":
            core.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
        else:
            scheme = "always" if kind.endswith("always") else "first"
            core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=kind.endswith("word"))
        core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=1200, special_tokens=special, initial_alphabet=letters, show_progress=False
        )
    core.train_from_iterator(texts, trainer)
    settings = json.loads(core.to_str())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if not token["content"].startswith("<0x")]
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(settings)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    made.chat_template = text
    return made


def trained_row(row, tokenizer, chat_format):
    """The ids of a row, and how many of them are its prompt; None where transformers cannot write it either."""
    before, answer = row[:-1], row[-1]
    thinking = bool(answer.reasoning)
    prompt = written_by(tokenizer, "", before, add_generation_prompt=True, enable_thinking=thinking)
    whole = written_by(tokenizer, "", row, enable_thinking=thinking)
    if prompt is None or whole is None or answer.content.strip() not in whole[0]:
        return None
    outcome = encode_row(Example(row, "row"), chat_format, 10_000)
    assert not isinstance(outcome, Rejected), (row, outcome)
    ids, labels = list(outcome.sequences[-1].input_ids), list(outcome.sequences[-1].labels)
    begin = len(prompt[1])
    assert ids[:begin] == prompt[1] == chat_format.prompt_ids(before, thinking)
    assert labels[begin - 1] == IGNORED_LABEL != labels[begin]
    end = begin + ids[begin:].index(chat_format.end_of_turn_id) + 1
    assert labels[begin:end] == ids[begin:end]
    assert set(labels[end:]) <= {IGNORED_LABEL}
    rest = whole[0][len(prompt[0]) :].partition("</s>")[0] + "</s>"
    if tokenizer.unk_token_id not in ids[begin:end]:
        assert spelled(tokenizer, ids[begin:end]) == rest
    return ids, whole[1]


def check(name, kind):
    tokenizer = tokenizer_of(kind, TEMPLATES[name])
    chat_format = ChatFormat(tokenizer)
    rows = list(filter(None, (trained_row(row, tokenizer, chat_format) for row in ROWS)))
    assert len(rows) >= 35
    return rows


def test_an_answer_that_would_join_with_its_prompt_is_what_inference_generates():
    rows = check("Vicuna", "metaspace")
    assert any(ids != whole for ids, whole in rows)  # transformers joins some, which no generation can


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_marks_that_are_text_are_trained_as_inference_meets_them(name, kind):
    check(name, kind)
