"""How an adapter is loaded: by PEFT, vLLM, Ollama and lorakit, as code to be copied."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lorakit.language import translated
from lorakit.outgoing import strict_json
from lorakit.report.markdown import fenced, plain, section

ADAPTER = "path/to/this/folder"
_QUESTION = "Your question"
_PICTURE = "picture.png"
_VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)  # the first is its default
_HUB_SETTING = ["--set", "model_hub=modelscope"]


@dataclass(frozen=True)
class Loading:
    """What a reader needs to load an adapter.

    Attributes:
        name: What the adapter is called where it is served.
        base: A hub name, or a path that stands for where the reader has the base.
        base_code: Python that sets ``base``.
        rank: The largest of its layers.
        stop_ids: The tokens at which an answer ends.
        system_prompt: Given to every question, if any.
        thinks: Whether answers reason first; None where the template knows no thinking.
        pixels: Least and most of a picture; None for a model that takes text only.
        has_own_template: Whether the base has a chat template.
        is_beyond_language: Whether layers outside the language model are adapted.
        lorakit_base: The base as lorakit's settings name it.
        is_from_modelscope: Whether it comes from there.
        has_gguf: Whether lorakit exports GGUF files of its family.
        quantizer: transformers' settings by which a base in fewer bits is given back its width; None for whole weights.
    """

    name: str
    base: str
    base_code: str
    rank: int
    stop_ids: tuple[int, ...]
    system_prompt: str | None
    thinks: bool | None
    pixels: tuple[int, int] | None
    has_own_template: bool
    is_beyond_language: bool
    lorakit_base: str
    is_from_modelscope: bool = False
    has_gguf: bool = True
    quantizer: str | None = None


def usage(loading: Loading) -> Iterator[str]:
    """Yield a section for each way to load an adapter."""
    yield section("Load it in PEFT", fenced(_peft(loading), "python"))
    yield section("Serve it with vLLM", *_vllm(loading))
    yield section("Run it in Ollama", *_ollama(loading))
    yield section("Ask it with lorakit", fenced(_lorakit(loading, "inference"), "sh"))


def _messages(loading: Loading) -> list[dict[str, Any]]:
    system = [{"role": "system", "content": loading.system_prompt}] if loading.system_prompt else []
    return [*system, {"role": "user", "content": translated(_QUESTION)}]


def _peft(loading: Loading) -> str:
    return (_PEFT_PICTURES if loading.pixels else _PEFT).format(
        base_code=loading.base_code,
        adapter=ADAPTER,
        system=_system_code(loading),
        thinking="" if loading.thinks is None else f"    enable_thinking={loading.thinks},\n",
        stop=list(loading.stop_ids),
        question=translated(_QUESTION),
        picture=_PICTURE,
        pixels=loading.pixels,
        quantizer=f", {loading.quantizer}" if loading.quantizer else "",
        widened=f", quantization_config={loading.quantizer}(dequantize=True)" if loading.quantizer else "",
    )


def _system_code(loading: Loading) -> str:
    return f'    {{"role": "system", "content": {loading.system_prompt!r}}},\n' if loading.system_prompt else ""


_PEFT = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer{quantizer}

{base_code}
adapter = "{adapter}"

tokenizer = AutoTokenizer.from_pretrained(adapter)
model = AutoModelForCausalLM.from_pretrained(base, dtype="auto"{widened})
model = PeftModel.from_pretrained(model, adapter).eval()

messages = [
{system}    {{"role": "user", "content": "{question}"}},
]
prompt = tokenizer.apply_chat_template(
    messages,
    add_generation_prompt=True,
{thinking}    return_tensors="pt",
    return_dict=True,
)
stop = {stop}
ids = model.generate(**prompt, max_new_tokens=256, do_sample=False, eos_token_id=stop, pad_token_id=stop[0])
print(tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))"""

_PEFT_PICTURES = """\
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer{quantizer}

{base_code}
adapter = "{adapter}"

tokenizer = AutoTokenizer.from_pretrained(adapter)
processor = AutoProcessor.from_pretrained(base)
processor.image_processor.size = {{"shortest_edge": {pixels[0]}, "longest_edge": {pixels[1]}}}
model = AutoModelForImageTextToText.from_pretrained(base, dtype="auto"{widened})
model = PeftModel.from_pretrained(model, adapter).eval()

messages = [
{system}    {{
        "role": "user",
        "content": [{{"type": "image", "path": "{picture}"}}, {{"type": "text", "text": "{question}"}}],
    }},
]
prompt = processor.apply_chat_template(
    messages,
    chat_template=tokenizer.chat_template,
    add_generation_prompt=True,
    tokenize=True,
{thinking}    return_tensors="pt",
    return_dict=True,
)
stop = {stop}
ids = model.generate(**prompt, max_new_tokens=256, do_sample=False, eos_token_id=stop, pad_token_id=stop[0])
print(tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))"""


def _vllm(loading: Loading) -> Iterator[str]:
    rank = next((rank for rank in _VLLM_RANKS if rank >= loading.rank), None)
    if rank is None or loading.is_beyond_language:
        fault = f"vLLM takes ranks up to {_VLLM_RANKS[-1]}" if rank is None else "vLLM adapts the language model only"
        yield translated(f"{fault}: merge this adapter into its base first (`--task merge`), and serve the result.")
        return
    serve = ["vllm", "serve", loading.base, "--enable-lora", "--lora-modules", f"{loading.name}={ADAPTER}"]
    serve += ["--max-lora-rank", str(rank)] if rank > _VLLM_RANKS[0] else []
    serve += ["--chat-template", f"{ADAPTER}/chat_template.jinja"]
    request: dict[str, Any] = {"model": loading.name, "messages": _messages(loading), "temperature": 0}
    request["stop_token_ids"] = list(loading.stop_ids)
    if loading.thinks is not None:
        request["chat_template_kwargs"] = {"enable_thinking": loading.thinks}
    url = "http://localhost:8000/v1/chat/completions"
    body = strict_json(request)
    ask = ["curl", url, "--header", "Content-Type: application/json", "--data", body]
    yield fenced(f"{shlex.join(serve)}\n{shlex.join(ask)}", "sh")
    yield translated(
        f"The name in `model` chooses the adapter; the base alone answers to the name {plain(loading.base)}. vLLM "
        "takes adapters of the families that its list of supported models marks so."
    )


def _ollama(loading: Loading) -> Iterator[str]:
    if not loading.has_gguf:
        return
    lines = [
        _lorakit(loading, "export", "--format", "gguf", "--export_dir", "gguf"),
        "cd gguf",
        shlex.join(["ollama", "create", loading.name, "-f", "Modelfile"]),
        shlex.join(["ollama", "run", loading.name]),
    ]
    yield translated("lorakit writes the files that Ollama reads:")
    yield fenced("\n".join(lines), "sh")


def _lorakit(loading: Loading, task: str, *more: str) -> str:
    hub = _HUB_SETTING if loading.is_from_modelscope else []
    named = ["--model_name_or_path", loading.lorakit_base, "--lora_model_path", ADAPTER]
    return shlex.join(["python", "main.py", "--task", task, *named, *hub, *more])
