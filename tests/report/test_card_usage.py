import json
import shlex
from itertools import pairwise

import pytest
from card_samples import loading
from conftest import ROOT
from markdown_it import MarkdownIt

from lorakit.cli.arguments import TASKS, parse_arguments
from lorakit.config import load_config
from lorakit.report.card_usage import usage


def commands(**changes):
    """The command lines shown, each as its words."""
    tokens = MarkdownIt("commonmark").parse("\n\n".join(usage(loading(**changes))))
    blocks = [token.content for token in tokens if token.type == "fence" and token.info == "sh"]
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def lorakit_commands(**changes):
    return [words[2:] for words in commands(**changes) if words[:2] == ["python", "main.py"]]


def test_lorakit_understands_its_own_commands():
    asked = []
    for words in lorakit_commands(lorakit_base="own er/ba'se", is_from_modelscope=True):
        if words[1] not in TASKS:
            continue
        arguments = parse_arguments(words)
        config = load_config(str(ROOT / "config.yaml"), arguments.flags, arguments.assignments)
        asked.append((config.model_name_or_path, config.model_hub, config.lora_model_path))
    assert ("own er/ba'se", "modelscope", ["path/to/this/folder"]) in asked
    assert {words[1] for words in lorakit_commands()} == {"inference", "export"}


def serve(**changes):
    return next(words for words in commands(**changes) if words[0] == "vllm")


def test_vllm_is_told_base_adapter_and_template():
    words = serve(name="my-lora", base="a b")
    assert words[:5] == ["vllm", "serve", "a b", "--enable-lora", "--lora-modules"]
    assert words[5] == "my-lora=path/to/this/folder"
    assert words[-2:] == ["--chat-template", "path/to/this/folder/chat_template.jinja"]


@pytest.mark.parametrize(("rank", "told"), [(8, []), (16, []), (17, ["32"]), (64, ["64"]), (300, ["320"])])
def test_vllm_is_told_of_a_rank_above_its_own(rank, told):
    words = serve(rank=rank)
    assert [after for word, after in pairwise(words) if word == "--max-lora-rank"] == told


@pytest.mark.parametrize(
    ("changes", "fault"), [({"rank": 513}, "ranks up to 512"), ({"is_beyond_language": True}, "only")]
)
def test_what_vllm_does_not_take_is_merged_first(changes, fault):
    shown = "\n".join(usage(loading(**changes)))
    assert fault in shown
    assert "--task merge" in shown
    assert "vllm serve" not in shown


def test_the_request_is_json_and_asks_as_in_training():
    [words] = [words for words in commands(system_prompt="it's\n'", thinks=True) if words[0] == "curl"]
    request = json.loads(words[-1])
    assert request["model"] == "base-lora"
    assert request["messages"][0] == {"role": "system", "content": "it's\n'"}
    assert request["stop_token_ids"] == [2, 0]
    assert request["chat_template_kwargs"] == {"enable_thinking": True}


def test_a_template_that_knows_no_thinking_is_not_told_of_it():
    shown = "\n".join(usage(loading(thinks=None)))
    assert "enable_thinking" not in shown


def test_ollama_creates_and_runs_one_name():
    words = [line for line in commands(name="my-lora") if line[0] == "ollama"]
    assert words == [["ollama", "create", "my-lora", "-f", "Modelfile"], ["ollama", "run", "my-lora"]]
