"""What does not compute what the model computes is switched off, and what is no causal model is refused."""

import copy
import threading

import pytest
import torch
from agreement_models import small_model, training_off
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from lorakit.agreement import prove
from lorakit.agreement.twins import NotTriedError, twins_of
from lorakit.engine import ALL

TOLERANCE = 3e-4  # of the proof: 5,000 roundings of float32
# The families that most people train, and one of each kind that the engine leaves something to: what is left.
FAMILIES = {
    "llama": set(),
    "mistral": set(),
    "qwen2": set(),
    "qwen3": set(),
    "gemma3_text": set(),
    "gpt_oss": set(),
    "phi3": set(),
    "qwen3_moe": set(),
    "gemma2": {"loss"},
    "bloom": {"attention", "packing", "beginning"},
    "lfm2": {"packing", "beginning"},
}


@pytest.mark.every(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_serves_a_family_computes_what_its_own_code_computes(family):
    model = small_model(family)
    found = prove(model)
    assert found.refusal is None
    assert set(found.pieces.missing) == FAMILIES[family]
    assert set(found.faults) == FAMILIES[family]
    assert training_off(model, found) < TOLERANCE


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_is_refused(family):
    found = prove(small_model(family))
    assert "a later token changes" in str(found.refusal)


class ScaledLogits(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 0.5
        return output


class AllLogits(LlamaForCausalLM):
    def forward(self, *args, logits_to_keep=0, **kwargs):
        return super().forward(*args, **kwargs)


class PaddingSeen(LlamaForCausalLM):
    def forward(self, input_ids, attention_mask=None, **kwargs):
        is_plain_mask = attention_mask is not None and attention_mask.dim() == 2
        return super().forward(input_ids, None if is_plain_mask else attention_mask, **kwargs)


class Noisy(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + torch.randn_like(output.logits)
        return output


class OwnPositions(LlamaForCausalLM):
    """Counts positions by itself, whatever those of packed rows are."""

    def forward(self, *args, position_ids=None, **kwargs):
        return super().forward(*args, **kwargs)


DOCTORED = {
    ScaledLogits: {"loss"},
    AllLogits: {"kept_logits", "loss", "attention", "layers", "packing", "beginning"},
    PaddingSeen: {"together"},
    OwnPositions: {"beginning"},  # of places in a row only distances count
}


def doctored(kind):
    model = small_model("llama")
    model.__class__ = kind
    return model


@pytest.mark.every(2)
@pytest.mark.parametrize("kind", DOCTORED)
def test_code_of_one_s_own_is_computed_as_it_says(kind):
    model = doctored(kind)
    found = prove(model)
    assert found.refusal is None
    assert set(found.pieces.missing) == DOCTORED[kind]
    assert training_off(model, found) < TOLERANCE


def test_a_model_that_draws_numbers_is_refused():
    assert "another result every time" in str(prove(doctored(Noisy)).refusal)


class RoundedLinear(torch.nn.Linear):
    """Computes with its weight rounded, as quantised layers do."""

    def forward(self, x):
        return torch.nn.functional.linear(x, (self.weight * 4).round() / 4, self.bias)


def test_a_linear_layer_that_does_more_is_computed_by_itself():
    model = small_model("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj.__class__ = RoundedLinear
        layer.mlp.down_proj.__class__ = RoundedLinear
    found = prove(model)
    assert found.pieces == ALL
    assert training_off(model, found) < TOLERANCE


class LoudAttention(LlamaAttention):
    def forward(self, hidden_states, **kwargs):
        output, shares = super().forward(hidden_states, **kwargs)
        return 1.01 * output, shares


def test_a_layer_that_computes_otherwise_is_left_to_itself():
    model = small_model("llama")
    for layer in model.model.layers:
        layer.self_attn.__class__ = LoudAttention
        LoudAttention.__module__ = LlamaAttention.__module__  # it is taken for one that is known
    found = prove(model)
    assert "layers" in found.pieces.missing
    assert training_off(model, found) < TOLERANCE


def test_the_model_is_left_as_it_was():
    model = small_model("qwen3")
    before, settings = copy.deepcopy(model.state_dict()), copy.deepcopy(model.config.to_dict())
    prove(model)
    assert model.config.to_dict() == settings
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_windows_of_a_vision_tower_are_left_as_they_were():
    model = small_model("qwen2_5_vl")
    windows = [module.window_size for module in model.modules() if hasattr(module, "window_size")]
    prove(model)
    assert [module.window_size for module in model.modules() if hasattr(module, "window_size")] == windows == [112]


def test_the_slice_has_a_layer_of_every_kind():
    kinds = ["sliding_attention"] * 5 + ["full_attention"] * 3
    model = small_model("gemma3_text", num_hidden_layers=8, layer_types=kinds)
    assert len(twins_of(model).reference.get_base_model().model.layers) == 6


ROTARY = {
    "longrope": ("phi3", {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8}),
    "dynamic": ("llama", {"factor": 4.0}),
}
LIMIT = 16  # beyond which angles change


@pytest.mark.parametrize("kind", ROTARY)
def test_rows_whose_angles_depend_on_their_company_are_computed_alone(kind):
    family, settings = ROTARY[kind]
    rope = {"rope_type": kind, "rope_theta": 10_000.0, **settings}
    own = {"original_max_position_embeddings": LIMIT} if kind == "longrope" else {}
    model = small_model(family, rope_parameters=rope, max_position_embeddings=LIMIT, **own)
    found = prove(model)
    assert found.refusal is None
    assert found.pieces.most_positions == LIMIT - (kind == "dynamic")
    assert found.pieces.packing
    assert training_off(model, found) < TOLERANCE


# How many tokens an indexer chooses: all of the rows of the proof, not all of those that the result is held against.
CHOSEN = {
    "deepseek_v32": {"index_topk": 26, "index_n_heads": 32},
    "hy_v4": {"index_topk": 26, "index_n_heads": 32},
    "dots3_note_text": {"index_topk": 26, "index_n_heads": 32},
    "glm_moe_dsa": {"index_topk": 26, "index_n_heads": 32},
    "glm5_next": {"text_config": {"index_topk": 26, "index_n_heads": 32, "num_key_value_heads": 4, "index_kpool": 2}},
    "minimax_m3_vl": {
        "text_config": {
            **{"index_topk_blocks": 7, "index_block_size": 4},
            "layer_types": ["full_attention", "minimax_m3_sparse"] * 2,
        }
    },
    "qwen4_exp_text": {"indexer_budget": 26},
}


@pytest.mark.every(0)
@pytest.mark.parametrize("family", CHOSEN)
def test_rows_longer_than_what_an_indexer_chooses_are_computed_by_the_models_own_attention(family):
    model = small_model(family, **CHOSEN[family])
    found = prove(model)
    assert found.refusal is None
    assert not found.pieces.attention
    assert training_off(model, found) < TOLERANCE


def test_a_model_without_linear_layers_or_with_an_attention_of_its_own_says_so():
    with pytest.raises(NotTriedError, match="its attention cannot be replaced"):
        twins_of(small_model("bloom")).engine(ALL)
    model = small_model("llama")
    for layer in model.model.layers:
        layer.self_attn, layer.mlp = torch.nn.Identity(), torch.nn.Identity()
    with pytest.raises(NotTriedError, match="it has no linear layers that could be adapted"):
        twins_of(model)


def test_layers_whose_weight_is_taken_without_calling_them_are_left_out():
    found = prove(small_model("mamba"))
    assert found.pieces.unheard == ("dt_proj",)


def test_a_model_that_cannot_be_copied_is_refused_with_the_reason():
    model = small_model("llama")
    model.model.layers[0].mlp.lock = threading.Lock()
    assert "no part of it can be tried: " in str(prove(model).refusal)
