"""Bad input: adapters that ask for code, for files, for the network, for a machine's whole memory, or for years."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from bad_input import Case, adapter, changing_tensors, setting_json, writing

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FOREVER = "(a+)+$|" + "(.|..)" * 40 + "x"


def _setting(name: str, *words: str, **changes: object) -> Case:
    return adapter(name, setting_json(SETTINGS, **changes), *words)


def _mistyped() -> list[Case]:
    """Each field that PEFT is given, with what it cannot be."""
    bad = {
        "r": (0, -1, 1.5, True, "8", [8], {}),
        "lora_alpha": ("16", [], {}, float("nan"), float("inf"), True, 1e308, -1e30, 10**400),
        "lora_dropout": (-0.1, 1.1, "0", float("nan")),
        "target_modules": (5, {}, [5], ["q_proj", None], ["(a+)+$"], [""], True),
        "exclude_modules": (5, [["q_proj"]], ["a b"]),
        "target_parameters": ("mlp", [5], ["a|b"]),
        "modules_to_save": ("lm_head", [5], ["(a+)+$"], ["../x"]),
        "layers_to_transform": ("0", [0.5], ["0"], {}),
        "layers_pattern": ("(a+)+", ["a|b"], 5),
        "rank_pattern": ([], {"q_proj": "8"}, {"q_proj": 0}, {"q_proj": None}),
        "alpha_pattern": ([], {"q_proj": "8"}, {"q_proj": float("inf")}, {"q_proj": 10**309}),
        "trainable_token_indices": ("0", [0.5], {"embed_tokens": "all"}),
        "fan_in_fan_out": ("false", 0, [False]),
        "use_rslora": ("yes", 1),
        "use_dora": ("yes", 1),
        "lora_bias": ("yes", 1),
        "ensure_weight_tying": ("yes", 1),
    }
    return [
        _setting(f"an adapter with {field}: {value!r}"[:70], "does not fit", f"its {field} is not", **{field: value})
        for field, values in bad.items()
        for value in values
        if not (value in ([], {}) and field in ("rank_pattern", "alpha_pattern") and value == {})
    ]


TOGETHER = [
    _setting(f"an adapter with fields that exclude each other: {changes!r}"[:100], "does not fit: PEFT says", **changes)
    for changes in (
        {"layers_pattern": "layers"},
        {"target_modules": "q_proj", "layers_pattern": "layers", "layers_to_transform": [0]},
        {"target_modules": "q_proj", "layers_to_transform": [0]},
    )
]

REACHING = [
    _setting(
        "an adapter that would import a module",
        "sets megatron_config",
        megatron_config={"x": 1},
        megatron_core="megatron.evil",
    ),
    _setting("an adapter that reads files to begin with", "was begun by changing its base", init_lora_weights="corda"),
    _setting("an adapter that begins with a singular value decomposition", "pissa", init_lora_weights="pissa_niter_9"),
    _setting("an adapter that begins with a list", "was begun by changing its base", init_lora_weights=["gaussian"]),
    _setting("settings of corda, which name a file", "sets corda_config", corda_config={"cache_file": "/etc/passwd"}),
    _setting("layers that are replicated a million times", "sets layer_replication", layer_replication=[[0, 10**6]]),
    _setting("routing among other adapters", "sets arrow_config", arrow_config={"top_k": 3}),
    _setting("tokens that call an adapter", "sets alora_invocation_tokens", alora_invocation_tokens=[1, 2]),
    _setting("a variant of LoRA that is another one", "sets use_qalora", use_qalora=True),
    _setting("blocks of another variant", "sets use_bdlora", use_bdlora={"nblocks": 2}),
    _setting("settings of velora", "sets velora_config", velora_config={"num_groups": 2}),
    _setting("settings of kasa", "sets kasa_config", kasa_config={"beta": 1}),
    _setting("settings of lora_ga", "sets lora_ga_config", lora_ga_config={"scale": "stable"}),
    _setting("settings of Monte Carlo LoRA", "sets monteclora_config", monteclora_config={"x": 1}),
    _setting("a kind of adapter that is a list", "adapter, not LoRA", peft_type=["LORA"]),
    _setting("a kind of adapter that is an object", "adapter, not LoRA", peft_type={"a": "LORA"}),
    adapter("adapter settings that are a number", writing(SETTINGS, "5"), SETTINGS, "damaged"),
    adapter("adapter settings that are a list", writing(SETTINGS, '["peft_type"]'), SETTINGS, "damaged"),
    adapter("adapter settings that are not text", writing(SETTINGS, b"\xff\xfe\x00"), SETTINGS, "damaged"),
    adapter("adapter settings nested without end", writing(SETTINGS, "[" * 100_000), SETTINGS, "damaged"),
    adapter("adapter settings of megabytes", writing(SETTINGS, " " * 11_000_000), "more than 5 MB"),
]

ENDLESS = [
    _setting("a pattern of layers that takes years", "target_modules", "more than a second", target_modules=FOREVER),
    _setting(
        "a pattern of other layers that takes years", "exclude_modules", "more than a second", exclude_modules=FOREVER
    ),
    _setting("ranks by a pattern that takes years", "rank_pattern", "more than a second", rank_pattern={FOREVER: 8}),
    _setting("alphas by a pattern that takes years", "alpha_pattern", "more than a second", alpha_pattern={FOREVER: 8}),
    _setting("a pattern that is none", "target_modules", "is not a regular expression", target_modules="(q_proj"),
    _setting("a pattern that chooses nothing", "does not fit", target_modules="nothing_like_it"),
    _setting("a pattern of megabytes", "target_modules", "characters", target_modules="a|" * 150_000),
    _setting("a pattern that counts to millions", "target_modules", target_modules="(a{9999999}){9999999}"),
    _setting("a rank of a million", "does not fit", "rank 1000000, its tensors have 16 at most", r=1_000_000),
    _setting("a rank beyond all numbers", "does not fit", "its tensors have 16 at most", r=10**30),
    _setting("a rank for one layer of a million", "rank 1000000", rank_pattern={"q_proj": 1_000_000}),
    _setting("the whole model saved once more", "modules_to_save names", modules_to_save=["model"]),
    _setting("all layers saved once more", "modules_to_save names", modules_to_save=["layers"]),
    _setting("tokens beyond the vocabulary", "does not fit", trainable_token_indices=[10**12]),
]


def _poisoned(value: float) -> object:
    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors[max(tensors)].view(-1)[3] = value

    return changing_tensors(WEIGHTS, poison)


def _as_folder(name: str) -> object:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return damage


def _as_pipe(name: str) -> object:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return damage


def _as_link(name: str, target: str) -> object:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return damage


def _moved_out(name: str) -> object:
    """Damage: a file that lies in a private folder, with a link in its place."""

    def damage(folder: Path) -> None:
        private = folder.parent / "private"
        private.mkdir()
        (folder / name).rename(private / name)
        (folder / name).symlink_to(private / name)

    return damage


LINKS = [
    adapter(f"{name} of a private folder", _moved_out(name), name, "is a link that leads out of the folder")
    for name in (SETTINGS, "lorakit.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
]

TENSORS = [
    adapter(
        "an adapter of whole numbers",
        changing_tensors(WEIGHTS, lambda tensors: tensors.update({k: v.int() for k, v in tensors.items()})),
        "is written as I32",
        "no weights",
    ),
    adapter("a number of the adapter that is none", _poisoned(float("nan")), "lora_B", "are not finite"),
    adapter("a number of the adapter that is endless", _poisoned(float("-inf")), "lora_B", "are not finite"),
    adapter("adapter weights that are a folder", _as_folder(WEIGHTS), WEIGHTS, "is a folder"),
    adapter("adapter weights that are a pipe", _as_pipe(WEIGHTS), WEIGHTS, "is a device, a pipe"),
    adapter("adapter weights that are a device", _as_link(WEIGHTS, "/dev/zero"), WEIGHTS, "is a device, a pipe"),
    adapter("adapter weights that are a link to themselves", _as_link(WEIGHTS, WEIGHTS), WEIGHTS),
    adapter("adapter settings that are a folder", _as_folder(SETTINGS), SETTINGS, "is a folder"),
    adapter("adapter settings that are a pipe", _as_pipe(SETTINGS), SETTINGS, "is a device, a pipe"),
    adapter("adapter settings that are a device", _as_link(SETTINGS, "/dev/zero"), SETTINGS, "is a device, a pipe"),
    adapter("a record that is a folder", _as_folder("lorakit.json"), "lorakit.json"),
    adapter("a record that is a pipe", _as_pipe("lorakit.json"), "lorakit.json"),
    adapter("a record that is a device", _as_link("lorakit.json", "/dev/zero"), "lorakit.json"),
]

ALL = [*_mistyped(), *TOGETHER, *REACHING, *ENDLESS, *LINKS, *TENSORS]
