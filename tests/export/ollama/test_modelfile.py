"""Ollama, with the Modelfile, feeds what lorakit feeds."""

import re

import go_template as go
import pytest
from conftest import CHATML, family_tokenizer, make_tokenizer, real_template
from transformers import AutoTokenizer

from lorakit.data_processing import ChatFormat, Message
from lorakit.errors import ModelError
from lorakit.export.gguf.tokenizer import begins_with_bos
from lorakit.export.ollama.modelfile import go_template, modelfile
from lorakit.model_config.starter import starter_folder

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|begin_of_text|>", "<|eot_id|>"]
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" + CHATML
)
CONVERSATIONS = [
    [("user", "What is 2 + 2?")],
    [("system", "Answer in one word."), ("user", "你好！\n再见")],
    [("user", "Hi"), ("assistant", "Hello."), ("user", "Who are you?")],
    [("system", "S"), *[("user", "a"), ("assistant", "b")] * 3, ("user", "c")],
]


def chat_format(template):
    return ChatFormat(make_tokenizer(template, SPECIAL, "<|eot_id|>", begin="<|begin_of_text|>"))


FORMATS = {
    "chatml": lambda: chat_format(CHATML),
    "a default system prompt": lambda: chat_format(DEFAULT_SYSTEM),
    "starter": lambda: ChatFormat(AutoTokenizer.from_pretrained(starter_folder())),
    "plain": lambda: ChatFormat(family_tokenizer("gpt2")),
    "plain with a beginning": lambda: ChatFormat(family_tokenizer("opt")),
    **{
        name: lambda name=name: chat_format(real_template(name))
        for name in ("qwen3", "qwen3_instruct_2507", "qwen2_5", "llama3", "llama3_1", "phi3", "gemma")
    },
}


def ids_of_ollama(found, template, conversation):
    """Ollama renders the template, and llama.cpp adds the beginning where the GGUF file says so."""
    system = "\n\n".join(content for role, content in conversation if role == "system")
    text = go.render(template, system, conversation)
    begin = [found.tokenizer.bos_token_id] if begins_with_bos(found) else []
    return begin + found.encode(text)


@pytest.mark.every(5)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("thinking", [False, True])
def test_ollama_feeds_what_lorakit_feeds(name, thinking):
    found = FORMATS[name]()
    template = go_template(found, thinking)
    for conversation in CONVERSATIONS:
        if name == "gemma" and conversation[0][0] == "system":
            continue  # its template takes none
        wanted = found.prompt_ids([Message(*message) for message in conversation], thinking)
        assert ids_of_ollama(found, template, conversation) == wanted


def test_a_default_system_prompt_gives_way_to_another():
    template = go_template(FORMATS["starter"]())
    assert go.render(template, "", [("user", "Q")]).count("named SmolLM") == 1
    assert "SmolLM" not in go.render(template, "S", [("user", "Q")])


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("message.content", "(message.content | upper if message.role == 'user' else message.content)"),
        CHATML.replace("message.content", "(loop.index0 | string) + message.content"),
        "{{ strftime_now('%d %B') }}" + CHATML,
        "{{ '{{ .Content }}' }}" + CHATML,
        CHATML.replace("message.content", '(\'"""\' + message.content)'),
        CHATML.replace("messages %}", "messages[-1:] %}"),
    ],
)
def test_a_chat_format_that_is_not_pieces_around_contents_has_no_template(template):
    text = modelfile(chat_format(template), "m.gguf", None, ["<|im_end|>"], 0.0)
    assert "TEMPLATE is left out" in text
    assert not re.search("^TEMPLATE", text, re.MULTILINE)
    assert all(line.startswith(("FROM", "#", "PARAMETER")) for line in text.splitlines())


def test_the_whole_file():
    text = modelfile(chat_format(CHATML), "m.gguf", "Be brief.\nBe kind.", ["<|im_end|>", "<|eot_id|>"], 0.7)
    assert text == (
        "FROM ./m.gguf\n"
        'TEMPLATE """{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{ range .Messages }}'
        '{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n{{ end }}{{ end }}'
        '<|im_start|>assistant\n"""\n'
        'PARAMETER stop "<|im_end|>"\n'
        'PARAMETER stop "<|eot_id|>"\n'
        "PARAMETER temperature 0.7\n"
        'SYSTEM """Be brief.\nBe kind."""\n'
    )


EVIL = ['<|end|>"\nFROM evil', 'a"b', "a\nSYSTEM evil", "a\rb", "\x1b[1m", "a\\", "", '"""']


@pytest.mark.parametrize("token", EVIL)
def test_a_stop_token_that_would_begin_a_command_is_refused(token):
    with pytest.raises(ModelError, match="stop token"):
        modelfile(chat_format(CHATML), "m.gguf", None, [token], 0.0)


@pytest.mark.parametrize("prompt", ['Be "kind"', 'a"""\nFROM evil\n"""', "a\x1b[2Jb", "a\rFROM evil"])
def test_a_system_prompt_that_a_modelfile_cannot_hold_is_refused(prompt):
    with pytest.raises(ModelError, match="system_prompt"):
        modelfile(chat_format(CHATML), "m.gguf", prompt, [], 0.0)


@pytest.mark.parametrize("sign", ['"', "\r", "\x1b"])
def test_a_template_that_would_end_its_quotation_or_hide_something_is_left_out(sign):
    template = CHATML.replace("'<|im_start|>assistant\n'", repr(f"<|im_start|>assistant{sign}"))
    assert go_template(chat_format(template)) is None


def test_a_system_prompt_that_would_end_the_quotation_is_refused():
    with pytest.raises(ModelError, match="three quotation marks"):
        modelfile(chat_format(CHATML), "m.gguf", 'Say """no""".', [], 0.0)
