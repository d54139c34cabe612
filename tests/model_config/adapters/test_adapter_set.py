"""Several adapters on one base: what is in use computes as plain PEFT would, and the base never changes."""

import pytest
import torch
from conftest import FAMILIES, save_family
from random_adapters import logits_of, plain_logits, save_random_adapter
from safetensors.torch import load_file, save_file

from lorakit.engine import DtypeChoice
from lorakit.errors import AdapterError, SettingsError
from lorakit.model_config import COMBINATIONS, AdapterChoice, AdapterSet, load_model, load_tokenizer, locate_model

SAME = {"rtol": 1e-4, "atol": 1e-5}


def adapter_set(folder, dtype=torch.float32):
    source = locate_model(str(folder), "huggingface")
    bundle = load_model(source, load_tokenizer(source), DtypeChoice(dtype, "test"), torch.device("cpu"))
    bundle.model.eval()
    return AdapterSet(bundle)


def base_tensors(model):
    """The weights of the base, whatever they are wrapped in."""
    return [value.clone() for name, value in model.state_dict().items() if "lora_" not in name]


@pytest.fixture
def two(model_folder, tmp_path):
    """A base and two adapters on different layers of it, of different ranks."""
    base = model_folder("llama")
    first = save_random_adapter(base, tmp_path / "a", seed=1, target_modules=["q_proj", "v_proj"])
    second = save_random_adapter(base, tmp_path / "b", seed=2, r=2, target_modules=["v_proj", "down_proj"])
    return base, AdapterChoice("a", first), AdapterChoice("b", second)


@pytest.mark.every(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_adapter_and_their_mixture_compute_what_plain_peft_does(family, model_folder, tmp_path):
    base = model_folder(family)
    a, b = (save_random_adapter(base, tmp_path / name, seed) for seed, name in enumerate("ab"))
    adapters = adapter_set(base)
    adapters.load(AdapterChoice("a", a))
    adapters.load(AdapterChoice("b", b))
    for weights in ({"a": 1.0}, {"b": 1.0}, {"a": 0.7, "b": -0.4}, {"b": 0.5}, {}):
        adapters.use(weights)
        wanted = plain_logits(base, [({"a": a, "b": b}[name], weight) for name, weight in weights.items()])
        torch.testing.assert_close(logits_of(adapters.bundle.model), wanted, **SAME)
        assert adapters.active == weights


def test_the_base_is_bit_for_bit_the_same_after_everything(two):
    base, a, b = two
    adapters = adapter_set(base, torch.bfloat16)
    before = base_tensors(adapters.bundle.model)
    adapters.load(a)
    adapters.use({"a": 1.0})
    adapters.load(b)
    adapters.use({"a": 0.5, "b": 2.0})
    logits_of(adapters.bundle.model)
    adapters.combine({"a": 1.0, "b": 1.0}, "cat", 0.5)
    adapters.unload("a")
    adapters.use({"b": 1.0})
    adapters.unload("b")
    adapters.unload("a+b")
    for value, own in zip(base_tensors(adapters.bundle.model), before, strict=True):
        assert torch.equal(value, own)


def test_changing_the_adapter_neither_moves_nor_copies_the_weights_of_the_base(two):
    base, a, b = two
    adapters = adapter_set(base)
    places = {parameter.data_ptr() for parameter in adapters.bundle.model.parameters()}
    adapters.load(a)
    adapters.load(b)
    for weights in ({"b": 1.0}, {"a": 0.3, "b": 0.7}, {}):
        adapters.use(weights)
    model = adapters.bundle.model
    assert {p.data_ptr() for name, p in model.named_parameters() if "lora_" not in name} == places


def test_taking_away_one_of_a_mixture_leaves_the_other(two):
    base, a, b = two
    adapters = adapter_set(base)
    adapters.load(a)
    adapters.load(b)
    adapters.use({"a": 0.5, "b": 2.0})
    adapters.unload("a")
    assert adapters.active == {"b": 2.0}
    torch.testing.assert_close(logits_of(adapters.bundle.model), plain_logits(base, [(b.folder, 2.0)]), **SAME)
    adapters.unload("b")
    torch.testing.assert_close(logits_of(adapters.bundle.model), plain_logits(base), **SAME)
    assert adapters.choices == ()


def test_an_adapter_that_does_not_fit_changes_nothing(two, tmp_path):
    base, a, _ = two
    other = save_family("gpt2", tmp_path / "other")
    bad = AdapterChoice("bad", save_random_adapter(other, tmp_path / "bad"))
    adapters = adapter_set(base)
    with pytest.raises(AdapterError):
        adapters.load(bad)
    torch.testing.assert_close(logits_of(adapters.bundle.model), plain_logits(base), **SAME)
    adapters.load(a)
    adapters.use({"a": 1.0})
    with pytest.raises(AdapterError):
        adapters.load(bad)
    assert adapters.active == {"a": 1.0}
    torch.testing.assert_close(logits_of(adapters.bundle.model), plain_logits(base, [(a.folder, 1.0)]), **SAME)


def test_the_same_adapter_loads_after_it_was_refused_and_mended(two):
    base, a, _ = two
    weights = load_file(a.folder / "adapter_model.safetensors")
    broken = dict(weights)
    broken.pop(next(iter(broken)))
    adapters = adapter_set(base)
    save_file(broken, a.folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="lacks 1 of its tensors"):
        adapters.load(a)
    save_file(weights, a.folder / "adapter_model.safetensors")
    adapters.load(a)
    adapters.use({"a": 1.0})
    torch.testing.assert_close(logits_of(adapters.bundle.model), plain_logits(base, [(a.folder, 1.0)]), **SAME)


def test_cat_is_the_exact_weighted_sum_though_ranks_and_layers_differ(two):
    base, a, b = two
    adapters = adapter_set(base)
    adapters.load(a)
    adapters.load(b)
    adapters.combine({"a": 0.7, "b": 0.3}, "cat", 0.5)
    wanted = plain_logits(base, [(a.folder, 0.7), (b.folder, 0.3)])
    torch.testing.assert_close(logits_of(adapters.bundle.model), wanted, **SAME)
    assert adapters.active == {"a+b": 1.0}


@pytest.mark.every(3)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_every_combination_is_an_adapter_of_its_own(combination, model_folder, tmp_path):
    base = model_folder("qwen3")
    adapters = adapter_set(base)
    for seed, name in enumerate("ab"):
        adapters.load(AdapterChoice(name, save_random_adapter(base, tmp_path / name, seed)))
    adapters.combine({"a": 0.6, "b": 0.6}, combination, 0.5)
    assert not torch.allclose(logits_of(adapters.bundle.model), plain_logits(base), atol=1e-3)


def test_an_adapter_called_like_a_combination_stays_itself(two):
    base, a, b = two
    adapters = adapter_set(base)
    adapters.load(AdapterChoice("cat", a.folder))
    adapters.load(b)
    adapters.combine({"cat": 0.7, "b": 0.3}, "cat", 0.5)
    adapters.use({"cat": 1.0})
    torch.testing.assert_close(logits_of(adapters.bundle.model), plain_logits(base, [(a.folder, 1.0)]), **SAME)


def test_ranks_that_cannot_be_combined_are_refused_with_what_can(two):
    base, a, b = two
    adapters = adapter_set(base)
    adapters.load(a)
    adapters.load(b)
    with pytest.raises(SettingsError, match="combination: linear") as raised:
        adapters.combine({"a": 1.0, "b": 1.0}, "linear", 0.5)
    assert "cat" in raised.value.hint


def test_an_unknown_name_is_refused_with_those_that_are_loaded(two):
    base, a, _ = two
    adapters = adapter_set(base)
    adapters.load(a)
    for attempt in (lambda: adapters.use({"c": 1.0}), lambda: adapters.unload("c")):
        with pytest.raises(SettingsError, match="no adapter called 'c'") as raised:
            attempt()
        assert raised.value.hint == "loaded: a"
    with pytest.raises(SettingsError, match="loaded already"):
        adapters.load(a)
