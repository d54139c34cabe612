"""Bad input: models that ask for code, for other files, for a machine's whole memory, or for years."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad_input import ABSENT, Case, Lab, changing_tensors, model, setting_json, writing

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LEADS_OUT = "is a link that leads out of the folder"
SMALL = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def as_folder(name: str) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return damage


def as_pipe(name: str) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return damage


def as_link(name: str, target: str) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return damage


def sized(name: str, size: int) -> Callable[[Path], Any]:
    """Damage: a file of so many bytes, noughts at its end, which take no room on the disk."""
    return lambda folder: os.truncate(folder / name, size)


def moved_out(name: str) -> Callable[[Path], Any]:
    """Damage: a file that lies elsewhere, with a link in its place."""

    def damage(folder: Path) -> None:
        private = folder.parent / "private"
        private.mkdir()
        shutil.move(folder / name, private / name)
        (folder / name).symlink_to(private / name)

    return damage


def growing(rules: dict[str, Any]) -> Callable[[Path], Any]:
    """Damage: other rules of a tokenizer."""

    def damage(folder: Path) -> None:
        file = folder / "tokenizer.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | rules))

    return damage


def _replacing(length: int, times: int) -> dict[str, Any]:
    rule = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * length}
    return {"type": "Sequence", "normalizers": [rule] * times, "decoders": [rule] * times}


def _spelt_otherwise(folder: Path) -> None:
    growing({"normalizer": _replacing(1000, 4)})(folder)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"normalizer"', '"n\\u006frmalizer"'))


def _added(count: int) -> list[dict[str, Any]]:
    of_all = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    return [{"id": 1000 + number, "content": f"<x{number}>", **of_all} for number in range(count)]


_FILLED = {
    **{"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None},
    **{"pad_id": 0, "pad_type_id": 0, "pad_token": "x"},
}
_FOLDING = base64.b64encode(bytes(4) + b"a" * 1000 + b"\0").decode()
GROWS = "makes texts more than 50 times longer"
GROWING = {
    "a thousand to the fourth": growing({"normalizer": _replacing(1000, 4)}),
    "two to the sixth": growing({"normalizer": _replacing(2, 6)}),
    "in answers": growing({"decoder": _replacing(1000, 4)}),
    "what stands before each": growing({"normalizer": {"type": "Prepend", "prepend": "a" * 5_000_000}}),
    "a folding of its own": growing({"normalizer": {"type": "Precompiled", "precompiled_charsmap": _FOLDING}}),
    "a folding of gigabytes": growing({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}),
    "filled up": growing({"padding": _FILLED}),
    "filled up to a little more than may be": growing({"padding": _FILLED | {"strategy": {"Fixed": 100_001}}}),
    "spelt otherwise": _spelt_otherwise,
}


def with_index(names: Callable[[str], object]) -> Callable[[Path], Any]:
    """Damage: a list of weight files in which each tensor stands in the file that ``names`` says."""

    def damage(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        from safetensors import safe_open

        with safe_open(folder / "model-00001-of-00001.safetensors", framework="pt") as opened:
            listed = {name: names(name) for name in opened.keys()}  # noqa: SIM118
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))

    return damage


def with_list(text: str) -> Callable[[Path], Any]:
    """Damage: a list of weight files that is something else."""

    def damage(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        (folder / INDEX).write_text(text)

    return damage


FILES = [
    *[
        model(f"{name} of brackets alone", writing(name, "[" + "[]," * 1_000_000 + "[]]"), f"{name} is mostly brackets")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", INDEX)
    ],
    model("settings of megabytes", writing("config.json", " " * 6_000_000), "config.json has more than 5 MB"),
    model("tokens added without end", growing({"added_tokens": _added(50_000)}), "adds more than 20000 tokens"),
    *[model(f"a tokenizer that makes texts longer: {name}", damage, GROWS) for name, damage in GROWING.items()],
    model("a tokenizer of gigabytes", sized("tokenizer.json", 10**10), "tokenizer.json has more than 80 MB"),
    model("weights that are a pipe", as_pipe(WEIGHTS), WEIGHTS, "is a device, a pipe"),
    model("weights that are a device", as_link(WEIGHTS, "/dev/zero"), WEIGHTS, "is a device, a pipe"),
    model("weights that are a folder", as_folder(WEIGHTS), WEIGHTS, "is a folder"),
    model("weights that are a link to themselves", as_link(WEIGHTS, WEIGHTS), WEIGHTS, "cannot be read"),
    model("weights that are a link to nothing", as_link(WEIGHTS, "nothing"), WEIGHTS, "no such file"),
    *[
        model(f"{name} that is a pipe", as_pipe(name), name if name != "config.json" else "config.json")
        for name in SMALL
    ],
    *[model(f"{name} that is a folder", as_folder(name), name) for name in SMALL],
    *[model(f"{name} that is a device", as_link(name, "/dev/zero"), name) for name in SMALL],
    *[model(f"{name} from another folder", moved_out(name), name, LEADS_OUT) for name in SMALL[:3]],
    *[
        model(f"a private file called {name}", as_link(name, "/etc/passwd"), name, LEADS_OUT)
        for name in ("vocab.json", "merges.txt", "chat_template.jinja", "tokenizer.model", "added_tokens.json")
    ],
    model("a template from another folder", as_link("additional_chat_templates", "/etc"), LEADS_OUT),
    model(
        "a tokenizer's file of another folder",
        setting_json("tokenizer_config.json", vocab_file="/etc/passwd"),
        "names a file of another folder",
    ),
    model("a list of weights that climbs out", with_index(lambda name: "../../x.safetensors"), "another folder"),
    model("a list of pickles", with_index(lambda name: "pytorch_model.bin"), "list of weights", "may be pickles"),
    model(
        "attention below that would be fetched as code",
        setting_json("config.json", text_config={"_attn_implementation": "somebody/kernels"}),
        "which lorakit does not run",
    ),
    model(
        "experts that would be fetched as code",
        setting_json("config.json", _experts_implementation="somebody/kernels"),
        "which lorakit does not run",
    ),
    model("a list of weights anywhere", with_index(lambda name: "/etc/passwd"), "another folder"),
    model("a list of weights that are numbers", with_index(lambda name: 5), "list of weights", "damaged"),
    model("a list of weights that is a list", with_list("[]"), "list of weights", "damaged"),
]

MODEL = "the model cannot be loaded"
SIZES = [
    model("a million layers", setting_json("config.json", num_hidden_layers=1_000_000), "num_hidden_layers", "1000000"),
    model("layers beyond all numbers", setting_json("config.json", num_hidden_layers=10**30), "num_hidden_layers"),
    model("fewer than no layers", setting_json("config.json", num_hidden_layers=-1), "num_hidden_layers"),
    *[
        model(f"{name} of ten thousand millions", setting_json("config.json", **{name: 10**10}), name, "10000000000")
        for name in ("hidden_size", "intermediate_size", "vocab_size", "head_dim", "num_attention_heads")
    ],
    *[
        model(f"{name}: {value!r}", setting_json("config.json", **{name: value}), name)
        for name in ("hidden_size", "vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim")
        for value in (-1, 0, 1.5, [], {}, "8", True)
    ],
    *[
        model(f"no {name}, for which the family has a large one", setting_json("config.json", **{name: ABSENT}), name)
        for name in ("hidden_size", "vocab_size", "intermediate_size")
    ],
    model("no sizes at all", writing("config.json", '{"model_type": "llama"}'), "weights have"),
    *[
        model(f"{name} of {value}", setting_json("config.json", **{name: value}), name, str(value), "no model's")
        for name, value in (
            ("num_labels", 10**19),
            ("num_labels", 10**8),
            ("colours", 10**19),
            ("num_codebooks", -(10**9)),
            ("encoder_layers", 100_000),
            ("num_hidden_layers_of_mine", 10**7),
            ("rope_theta", 10**20),
            ("attention_dropout", 2.0),
            ("resid_pdrop", -1),
        )
    ],
    *[
        model(f"numbers beyond all below: {name}", setting_json("config.json", **{name: value}), "no model's")
        for name, value in {
            "text_config": {"num_labels": 10**9},
            "vision_config": {"depths": [2, 10**9]},
            "audio_config": {"a": [{"b": {"c": 10**12}}]},
            "rope_scaling": {"rope_type": "yarn", "factor": 1e308, "original_max_position_embeddings": 2048},
            "rms_norm_eps": 1e300,
            "attention_dropout": float("nan"),
        }.items()
    ],
    model("positions beyond all numbers", setting_json("config.json", max_position_embeddings=10**30), "max_position"),
    model("positions that are text", setting_json("config.json", max_position_embeddings="far"), "max_position"),
]


def _poisoned(value: float) -> Callable[[Path], Any]:
    def poison(tensors: dict[str, Any]) -> None:
        tensors["model.layers.0.mlp.up_proj.weight"].view(-1)[5] = value

    return changing_tensors(WEIGHTS, poison)


QUANTIZED = [
    model(
        f"weights in fewer bits by {how!r}"[:70], setting_json("config.json", quantization_config=how), "in fewer bits"
    )
    for how in (
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"quant_method": "mxfp4"},
        {"quant_method": "eetq"},
        {"quant_method": ["x"]},
        {"quant_method": None},
        {},
        "x",
        5,
    )
]

NUMBERS = [
    model(
        "weights that are whole where config.json says four bits",
        setting_json("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "the model cannot be loaded",
    ),
    model(
        "weights that are whole numbers",
        changing_tensors(WEIGHTS, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].int()})),
        "model.norm.weight is written as I32",
        "no weights",
    ),
    model("a weight that is no number", _poisoned(float("nan")), "up_proj.weight", "are not finite"),
    model("a weight that is endless", _poisoned(float("inf")), "up_proj.weight", "are not finite"),
]

GENERATION = [
    model(f"a generation_config.json that is {name}", writing("generation_config.json", text), "generation_config.json")
    for name, text in {
        "not JSON": "{",
        "a list": "[]",
        "a number": "5",
        "not text": b"\xff\xfe",
        "nested without end": "[" * 100_000,
        "with tokens that are text": '{"eos_token_id": "end"}',
        "with tokens that are objects": '{"eos_token_id": {"a": 1}}',
        "with tokens of tokens": '{"eos_token_id": [[1]]}',
        "with a token beyond the vocabulary": '{"eos_token_id": 100000000000}',
    }.items()
]

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = [
    model(f"a template {name}", writing("chat_template.jinja", text), "chat template")
    for name, text in {
        "with an endless loop": LOOP,
        "with a loop of a hundred thousand millions": "{% for a in range(10**11) %}x{% endfor %}",
        "that counts beyond all numbers": "{{ 9**9**9 }}",
        "that fills the memory with text": "{{ ('x' * 10**10) | length }}",
        "that pads a text with gigabytes": "{{ 'x'.ljust(10**11) }}",
        "that formats a text of gigabytes": "{{ '%10000000000d' % 5 }}",
        "that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "that doubles a text without end": "{% set ns = namespace(x='x') %}{% for a in range(99) %}"
        "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "that includes another file": "{% include '/etc/passwd' %}",
        "that imports another file": "{% import '/etc/passwd' as x %}",
        "that is nested without end": "{% if 1 %}" * 5000,
        "that reaches for globals": "{{ cycler.__init__.__globals__.os.system('true') }}",
        "that reaches for builtins": "{{ self.__init__.__globals__.__builtins__.open('/etc/passwd') }}",
        "that writes into what it is given": "{% set x = messages.append(1) %}{{ messages }}",
        "that divides by nothing": "{{ 1 // 0 }}",
        "that raises": "{{ raise_exception('no') }}",
        "that is empty": " ",
    }.items()
]


def _tokenizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")

    return damage


TOKENIZERS = [
    model(f"a tokenizer {name}", _tokenizer(change), "tokenizer")
    for name, change in {
        "without a model": lambda t: t.pop("model"),
        "whose model is text": lambda t: t.update(model="x"),
        "of an unknown kind": lambda t: t["model"].update(type="Own"),
        "whose vocabulary is a list": lambda t: t["model"].update(vocab=[1, 2]),
        "with merges of nothing": lambda t: t["model"].update(merges=[["a", "nothing here"]]),
        "with numbers beyond all tokens": lambda t: t["model"]["vocab"].update(x=2**40),
        "that would be decoded by nothing known": lambda t: t.update(decoder={"type": "Own"}),
        "with a pattern that is none": lambda t: t.update(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
        ),
        "whose added tokens are text": lambda t: t.update(added_tokens="x"),
    }.items()
] + [
    model(
        "a token for what is unknown that is empty",
        setting_json("tokenizer_config.json", unk_token=""),
        "its tokenizer cannot be loaded",
    ),
    model("settings of a tokenizer that are a list", writing("tokenizer_config.json", "[]"), "tokenizer"),
    model("settings of a tokenizer that are not text", writing("tokenizer_config.json", b"\xff\xfe"), "tokenizer"),
    model("settings of a tokenizer nested without end", writing("tokenizer_config.json", "[" * 100_000), "tokenizer"),
    model("an end token that is a number", setting_json("tokenizer_config.json", eos_token=5), "token"),
    model("special tokens that are a number", writing("special_tokens_map.json", "5"), "token"),
]


def _own_folder(name: str, content: str) -> Case:
    def prepare(lab: Lab) -> list[str]:
        folder = lab.folder / "model"
        folder.mkdir()
        (folder / "config.json").write_text(content)
        return lab.command("train", "--model_name_or_path", str(folder))

    return Case(name, prepare, ("model",))


WEIGHT_FILES = [
    model(f"weights {name}", writing(WEIGHTS, content), MODEL)
    for name, content in {
        "that are text": b"hello",
        "with a header that is a list": b"\x02" + bytes(7) + b"[]",
        "with a header that is not JSON": b"\x03" + bytes(7) + b"{]}",
        "with a header that is not text": b"\x02" + bytes(7) + b"\xff\xfe",
        "with offsets beyond their end": b"\x45"
        + bytes(7)
        + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,99999999999999999]}}',
        "with sizes below nothing": b"\x3b" + bytes(7) + b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}    ',
        "of an unknown kind of number": b"\x3b"
        + bytes(7)
        + b'{"a":{"dtype":"X99","shape":[2],"data_offsets":[0,8]}}     ',
    }.items()
] + [
    Case(
        "an extra file of weights without a byte",
        lambda lab: _with_extra(lab, b""),
        ("x.safetensors",),
    ),
    Case(
        "an extra file of weights that is text",
        lambda lab: _with_extra(lab, b"hello there, this is text"),
        ("x.safetensors",),
    ),
]


def _with_extra(lab: Lab, content: bytes) -> list[str]:
    folder = lab.model()
    (folder / "x.safetensors").write_bytes(content)
    return lab.command("train", "--model_name_or_path", str(folder))


ALL = [
    *FILES,
    *SIZES,
    *QUANTIZED,
    *NUMBERS,
    *GENERATION,
    *TEMPLATES,
    *TOKENIZERS,
    *WEIGHT_FILES,
    _own_folder("a model of a configuration alone", '{"model_type": "llama"}'),
]
