"""Wrong merges are found in the weights, layer by layer; right ones pass in every number format."""

import copy

import pytest
import torch
from conftest import FAMILIES
from random_adapters import plain_model, save_random_adapter

from lorakit.export.proving import proof
from lorakit.export.proving.probes import LayerEffect, find_effects, found_share, measure_effects, share_doubt, signs

FORMATS = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-8}


@pytest.fixture(scope="module", params=FAMILIES)
def measured(request, model_folder, tmp_path_factory):
    """The effects of an adapter, the weights with it merged by PEFT, and those of its base."""
    from peft import PeftModel

    base = model_folder(request.param)
    adapter = save_random_adapter(base, tmp_path_factory.mktemp("probes") / "a")
    tuned = PeftModel.from_pretrained(plain_model(base), str(adapter)).eval()
    return measure_effects(tuned), tuned.merge_and_unload(), plain_model(base)


@pytest.fixture
def case(measured):
    """The same, with merged weights that a test may change."""
    effects, merged, base = measured
    return effects, copy.deepcopy(merged), base


@pytest.mark.every(3)
@pytest.mark.parametrize(("dtype", "rounding"), FORMATS.items())
def test_a_right_merge_passes(case, dtype, rounding):
    effects, merged, _ = case
    found = find_effects(effects, merged.to(dtype), rounding)
    assert len(found) == len(effects) >= 8
    assert all(layer.is_right for layer in found)
    assert found_share(effects, found) == pytest.approx(1, abs=0.05)


def _scaled(effects, merged, base):
    for effect in effects:
        weight, own = merged.get_submodule(effect.path).weight, base.get_submodule(effect.path).weight
        weight.data = own + 2 * (weight - own)


def _left_out(effects, merged, base):
    path = effects[3].path
    merged.get_submodule(path).weight.data = base.get_submodule(path).weight.data


def _transposed(effects, merged, base):
    for effect in effects:
        weight, own = merged.get_submodule(effect.path).weight, base.get_submodule(effect.path).weight
        if weight.shape[0] == weight.shape[1]:
            weight.data = own + (weight - own).T


def _negated(effects, merged, base):
    path = effects[0].path
    weight, own = merged.get_submodule(path).weight, base.get_submodule(path).weight
    weight.data = 2 * own - weight


@pytest.mark.every(5)
@pytest.mark.parametrize("spoil", [_scaled, _left_out, _transposed, _negated])
@pytest.mark.parametrize(("dtype", "rounding"), FORMATS.items())
def test_a_wrong_merge_is_found(case, spoil, dtype, rounding):
    effects, merged, base = case
    with torch.no_grad():
        before = {effect.path: merged.get_submodule(effect.path).weight.clone() for effect in effects}
        spoil(effects, merged, base)
        spoilt = {path for path, weight in before.items() if not torch.equal(merged.get_submodule(path).weight, weight)}
    if spoilt:  # GPT-2's and OPT's have few square matrices, but each family has one
        found = find_effects(effects, merged.to(dtype), rounding)
        assert {layer.path for layer in found if not layer.is_right} == spoilt
    assert spoilt


def test_an_effect_below_rounding_counts_as_lost_not_as_wrong(model_folder, tmp_path):
    from peft import PeftModel

    base = model_folder("llama")
    adapter = save_random_adapter(base, tmp_path / "a", size=0.002)
    rounded = plain_model(base).to(torch.bfloat16).float()  # as the files of most bases are
    tuned = PeftModel.from_pretrained(rounded, str(adapter)).eval()
    effects = measure_effects(tuned)
    found = find_effects(effects, tuned.merge_and_unload().to(torch.bfloat16), 2.0**-8)
    assert all(layer.is_right for layer in found)
    assert found_share(effects, found) < 0.9


@pytest.mark.parametrize(
    ("is_lost", "is_wrong", "written_as", "said"),
    [
        (True, False, "bf16", "an adapter as small as this: set export_dtype=f32"),
        (False, False, "bf16", "rounded to bf16 they answer otherwise: set export_dtype=f32"),
        (False, True, "bf16", "do not use it"),
        (False, False, "f32", "do not use it"),
    ],
)
def test_where_rounding_is_all_that_is_wrong_the_remedy_is_to_round_less(is_lost, is_wrong, written_as, said):
    assert said in proof._remedy(is_lost, is_wrong, written_as)


def test_the_doubt_of_a_share_is_its_deviation_over_roundings_that_know_nothing_of_the_effect():
    drawn = torch.Generator().manual_seed(1)
    layers = torch.nn.ModuleDict({name: torch.nn.Linear(48, width, bias=False) for name, width in WIDTHS.items()})
    own = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    added = {name: 0.01 * torch.randn(weight.shape, generator=drawn) for name, weight in own.items()}
    effects = [LayerEffect(name, signs(name, 48) @ own[name].T, signs(name, 48) @ added[name].T) for name in layers]
    shares, doubts = [], []
    for _ in range(300):
        for name, layer in layers.items():  # rounding five times as large as what is added
            layer.weight.data = own[name] + added[name] + 0.05 * torch.randn(own[name].shape, generator=drawn)
        found = find_effects(effects, layers, 2.0**-3)
        shares.append(found_share(effects, found))
        doubts.append(share_doubt(effects, found))
    assert torch.tensor(shares).mean().item() == pytest.approx(1, abs=0.1)
    # the inputs of a layer are four, so what is drawn for them is not quite independent
    assert torch.tensor(shares).std().item() == pytest.approx(torch.tensor(doubts).mean().item(), rel=0.2)


WIDTHS = {"narrow": 16, "wide": 64}
