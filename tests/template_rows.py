"""Conversations of many kinds, and what plain transformers makes of them."""

import re
from functools import cache

from jinja2 import TemplateError as JinjaError

from lorakit.data_processing import Message
from lorakit.data_processing.reasoning import joined

TEXTS = [
    ("hi there", "The fox."),
    ("如何睡好？", "早点睡。"),
    ("a\nb\n\nc", "x\n\ny\nz"),
    ("12 345 6789", "0.5"),
    (" begins with a space", " so does this"),
    ("ends with one ", "so does this "),
    ("\nbegins with a line", "\n\n so does this"),
    ("ends\n", "ends\n"),
    ("def f(x):\n    return x", "```python\nprint('a')\n```"),
    ("<b>bold</b>", "<p>text</p>"),
    ("{{ braces }}", "{% raw %}"),
    ('quote "it\'s"', "'t was"),
    ("é à ü", "ñ ç"),
    ("🙂", "👍🏽"),
    ("?", "!"),
    ("tab\there", "a\tb"),
    ("Assistant: hm", "User: no"),
    ("[INST] x", "[/INST] y"),
    ("what is <think>?", "A tag."),
    ("q", "Qwen writes <think> first and </think> last"),
    ("q", "</think> closes it"),
    ("<tool_call>", "<tool_response>"),
    ("1", "-1"),
    ("a", "b" * 60),
    ("  ", "."),
]
REASONED = [
    ("1+1", "Two.", "Let me see."),
    ("如何？", "这样。", "想一想\n再想"),
    ("q", "y z", "x"),
    ("q", " y", "a\n\nb"),
]
SYSTEMS = ["Be brief.", "简短。\n回答。", " spaces "]


def _rows():
    question = Message("user", "q")
    rows = [(Message("user", text), Message("assistant", answer)) for text, answer in TEXTS]
    rows += [(Message("user", text), Message("assistant", answer, reasoning=why)) for text, answer, why in REASONED]
    rows += [(Message("system", system), question, Message("assistant", "a b")) for system in SYSTEMS]
    turns = [message for row in rows[:4] for message in row]
    rows += [tuple(turns), tuple(turns[:4]), (Message("system", "S"), *turns[:6])]
    newline = (question, Message("assistant", "\n\n first"), Message("user", "more"), Message("assistant", "a b"))
    rows += [newline, (*newline, *rows[1])]
    history = (question, Message("assistant", "a1", reasoning="r1"), Message("user", "more"))
    rows += [(*history, Message("assistant", "a2", reasoning="r2")), (*history, Message("assistant", "a2"))]
    return [*rows, (Message("system", ""), question, Message("assistant", "a"))]


ROWS = _rows()

PARTS_ONLY = ("idefics3", "llava_next", "smolvlm")


def written_by(tokenizer, name, messages, **how):
    """What transformers makes of a conversation, in text and in token ids; None where the template refuses it."""
    plain = []
    knows = re.search("think|reasoning", tokenizer.chat_template)
    for message in messages:
        is_joined = bool(message.reasoning and not knows)
        text = joined(message.reasoning, message.content) if is_joined else message.content
        content = [{"type": "text", "text": text}] if name in PARTS_ONLY else text
        plain.append({"role": message.role, "content": content})
        if message.reasoning:
            plain[-1]["reasoning_content"] = message.reasoning
        elif name not in ("gptoss", "lfm2_2_5") and "</think>" in message.content and message.role == "assistant":
            plain[-1]["reasoning_content"] = ""  # else some templates take the prose before it for reasoning
    try:
        text = tokenizer.apply_chat_template(plain, tokenize=False, **how)
        return text, tokenizer.apply_chat_template(plain, return_dict=False, **how)
    except (JinjaError, TypeError):
        return None


def spelled(tokenizer, ids):
    """The text of tokens as they stand, nothing stripped and nothing cleaned."""
    text, special = b"", set(tokenizer.all_special_tokens) | set(tokenizer.added_tokens_encoder)
    bytes_of = {character: byte for byte, character in _characters().items()}
    is_after_special = False
    for token in tokenizer.convert_ids_to_tokens(ids):
        if token in special:
            text += token.encode()
        elif token.startswith("<0x"):
            text += bytes([int(token[3:5], 16)])
        elif "ByteLevel" in str(tokenizer._tokenizer.decoder):
            text += bytes(bytes_of[character] for character in token)
        else:  # a legacy tokenizer begins whatever follows a special token with a space
            is_added = is_after_special and "Prepend" in str(tokenizer._tokenizer.normalizer)
            text += (token.removeprefix("▁") if is_added else token).replace("▁", " ").encode()
        is_after_special = token in special
    return text.decode("utf-8", "replace")


@cache
def _characters():
    """GPT-2's letters for bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}
