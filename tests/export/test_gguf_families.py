"""Families beside those of the fixtures: their GGUF files give back their logits, what differs is refused."""

from types import SimpleNamespace

import pytest
import torch
from export_models import logits, other_family, tensor_formats, tensors_of, write
from transformers.core_model_loading import revert_weight_conversion

from lorakit.errors import ModelError, ProofError
from lorakit.export.gguf.family import departures, family_of, read_as
from lorakit.export.gguf.reading import read_gguf
from lorakit.export.weights.tensors import ModelTensors

READ_BY_TRANSFORMERS = ("mistral", "qwen2", "qwen3_moe", "phi3", "gemma2", "gemma3_text")
READ_HERE = ("smollm3", "gpt_oss")
IDS = tuple(range(5, 45))  # longer than the windows
ON_CPU = SimpleNamespace(device=torch.device("cpu"), dtype=SimpleNamespace(dtype=torch.float32))


def read_by_transformers(file, model):
    kind, config = read_as(type(model), model.config)
    return kind.from_pretrained(file.parent, gguf_file=file.name, config=config, dtype=torch.float32).eval()


@pytest.mark.every(3)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", READ_BY_TRANSFORMERS)
def test_in_f32_the_logits_are_those_of_the_source(family, tied, tmp_path):
    if family == "gemma2" and not tied:
        pytest.skip("llama.cpp has no Gemma 2 with an output layer of its own")
    model, tokenizer = other_family(family, tie_word_embeddings=tied)
    found = read_by_transformers(write(model, tokenizer, tmp_path / "m.gguf"), model)
    torch.testing.assert_close(logits(found, IDS), logits(model, IDS), rtol=1e-5, atol=1e-5)


@pytest.mark.every(3)
@pytest.mark.parametrize("family", [*READ_HERE, *READ_BY_TRANSFORMERS])
def test_what_is_read_here_is_what_was_written(family, tmp_path):
    model, tokenizer = other_family(family)
    file = write(model, tokenizer, tmp_path / "m.gguf")
    found = read_gguf(file, type(model), model.config, ON_CPU)
    # Norms that are written with 1 added are rounded there.
    torch.testing.assert_close(logits(found, IDS), logits(model, IDS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["smollm3", "qwen3_moe"])
def test_a_tensor_that_is_missing_is_found_when_it_is_read(family, tmp_path):
    model, tokenizer = other_family(family)
    tensors = tensors_of(model)
    less = {name: shape for name, shape in tensors.shapes.items() if "layers.1.self_attn.q_proj" not in name}
    file = write(model, tokenizer, tmp_path / "m.gguf", tensors=ModelTensors(less, tensors.read))
    with pytest.raises(ProofError, match=r"blk\.1\.attn_q\.weight is missing or has another shape"):
        read_gguf(file, type(model), model.config, ON_CPU)


def test_experts_are_written_alike_whether_a_checkpoint_keeps_them_together_or_alone(tmp_path):
    model, tokenizer = other_family("qwen3_moe")
    apart = revert_weight_conversion(model, model.state_dict())
    assert any(".experts.3.up_proj.weight" in name for name in apart)
    tensors = ModelTensors({name: tuple(value.shape) for name, value in apart.items()}, apart.__getitem__)
    one = write(model, tokenizer, tmp_path / "one.gguf")
    other = write(model, tokenizer, tmp_path / "other.gguf", tensors=tensors)
    assert tensor_formats(one) == tensor_formats(other)
    assert torch.equal(logits(read_by_transformers(other, model)), logits(read_by_transformers(one, model)))


def test_routers_and_biases_stay_f32(tmp_path):
    model, tokenizer = other_family("gpt_oss", intermediate_size=64)
    formats = tensor_formats(write(model, tokenizer, tmp_path / "m.gguf", "q8_0"))
    assert formats["blk.0.ffn_gate_exps.weight"] == formats["blk.0.ffn_down_exps.weight"] == "Q8_0"
    assert {formats[f"blk.0.{name}"] for name in ("ffn_gate_inp.weight", "ffn_up_exps.bias", "attn_sinks.weight")} == {
        "F32"
    }


@pytest.mark.parametrize(
    ("family", "settings", "fault"),
    [
        ("mistral", {"sliding_window": 64}, "sliding_window: 64"),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True}, "use_sliding_window: True"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob: False"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, "no_rope_layers"),
        ("phi3", {"sliding_window": 64}, "sliding_window: 64"),
        ("phi3", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "rope_parameters"),
        ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping: None"),
        ("gemma2", {"query_pre_attn_scalar": 20}, "query_pre_attn_scalar: 20"),
        ("gemma2", {"layer_types": ["full_attention"] * 4}, "layer_types"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("gemma3_text", {"layer_types": ["sliding_attention"] * 6}, "layer_types"),
        ("gpt_oss", {"swiglu_alpha": 1.5}, "swiglu_alpha: 1.5"),
    ],
)
def test_what_llama_cpp_takes_for_something_else_is_refused(family, settings, fault):
    model, _ = other_family(family)
    for name, value in settings.items():
        setattr(model.config, name, value)
    with pytest.raises(ModelError, match=fault):
        family_of(model.config)


def test_a_window_s_own_rotations_are_those_that_llama_cpp_takes_them_for():
    model, _ = other_family("gemma3_text")
    model.config.rope_parameters["sliding_attention"]["rope_theta"] = 5e4
    with pytest.raises(ModelError, match="rope_parameters"):
        family_of(model.config)


def test_the_rounded_ramp_of_gpt_oss_is_said():
    model, _ = other_family("gpt_oss")
    assert departures(model.config) == []
    model.config.rope_parameters["truncate"] = False
    assert "thousandth" in departures(model.config)[0]
