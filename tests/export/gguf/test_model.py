"""A GGUF file is the model: transformers' own reader gives back its logits."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import family_config
from export_models import loaded, logits, metadata, random_model, tensor_formats, tensors_in, tensors_of, write
from transformers import AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lorakit.errors import ModelError
from lorakit.export.gguf.family import FAMILIES
from lorakit.export.weights.tensors import ModelTensors

GGUF_FAMILIES = ("qwen3", "llama", "gpt2")
# transformers' reader takes every Qwen3 head for 128 numbers wide
SIZES = {"qwen3": {"head_dim": 128}, "llama": {}, "gpt2": {}}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 512}


@pytest.mark.every(5)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", GGUF_FAMILIES)
def test_in_f32_the_logits_are_those_of_the_source(family, tied, tmp_path):
    model, tokenizer = random_model(family, tie_word_embeddings=tied, **SIZES[family])
    file = write(model, tokenizer, tmp_path / "m.gguf")
    torch.testing.assert_close(logits(loaded(file)), logits(model), rtol=1e-5, atol=1e-5)
    assert ("output.weight" in tensors_in(file)) is not tied


@pytest.mark.every(3)
@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", 2e-3), ("bf16", 2e-2), ("q8_0", 3e-2)])
@pytest.mark.parametrize("family", GGUF_FAMILIES)
def test_in_fewer_bits_the_logits_are_near_them(family, dtype, tolerance, tmp_path):
    model, tokenizer = random_model(family, **SIZES[family])
    source = logits(model)
    found = logits(loaded(write(model, tokenizer, tmp_path / "m.gguf", dtype)))
    assert 0 < (found - source).norm() / source.norm() < tolerance


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"num_key_value_heads": 1}),
        ("llama", {"num_key_value_heads": 4}),
        ("llama", {"head_dim": 16}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen3", {"head_dim": 16}),
        ("gpt2", {"n_inner": 96}),
    ],
)
def test_heads_biases_and_sizes_of_other_shapes(family, settings, tmp_path):
    model, tokenizer = random_model(family, **settings)
    file = write(model, tokenizer, tmp_path / "m.gguf")
    torch.testing.assert_close(logits(loaded(file, model.config)), logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beginning", ["transformer.", ""])
def test_gpt2_is_read_by_both_of_its_names_and_without_its_buffers(beginning, tmp_path):
    model, tokenizer = random_model("gpt2")
    state = {name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items()}
    state = {beginning + name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    state |= {f"{beginning}h.0.attn.bias": torch.ones(1, 1, 8, 8), f"{beginning}h.0.attn.masked_bias": torch.ones(())}
    tensors = ModelTensors({name: tuple(tensor.shape) for name, tensor in state.items()}, state.__getitem__)
    file = write(model, tokenizer, tmp_path / "m.gguf", tensors=tensors)
    torch.testing.assert_close(logits(loaded(file)), logits(model), rtol=1e-5, atol=1e-5)


def test_the_settings_are_those_of_the_model(tmp_path):
    model, tokenizer = random_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    found = metadata(write(model, tokenizer, tmp_path / "m.gguf", "bf16"))
    wanted = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "tiny",
        "general.file_type": 32,
        "llama.block_count": 2,
        "llama.context_length": 2048,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8,
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 5e5,
        "llama.vocab_size": len(tokenizer),
    }
    assert {name: found[name] for name in wanted} == wanted
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(model.config.rms_norm_eps)


def test_scaled_rotations_are_written(tmp_path):
    model, tokenizer = random_model("qwen3", rope_parameters=YARN)
    found = metadata(write(model, tokenizer, tmp_path / "m.gguf"))
    assert found["qwen3.rope.scaling.type"] == "yarn"
    assert found["qwen3.rope.scaling.factor"] == 4
    assert found["qwen3.rope.scaling.original_context_length"] == 512
    model, tokenizer = random_model("llama", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})
    found = metadata(write(model, tokenizer, tmp_path / "m.gguf"))
    assert found["llama.rope.scaling.type"] == "linear"
    assert found["llama.rope.scaling.factor"] == 2


def test_norms_biases_and_learnt_positions_stay_f32(tmp_path):
    model, tokenizer = random_model("gpt2")
    formats = tensor_formats(write(model, tokenizer, tmp_path / "m.gguf", "q8_0"))
    full = {name for name, kind in formats.items() if kind == "F32"}
    assert full == {name for name in formats if "norm" in name or name.endswith(".bias")} | {"position_embd.weight"}
    assert {kind for name, kind in formats.items() if name not in full} == {"Q8_0"}


def test_rows_that_are_no_multiple_of_a_block_are_f16_in_q8_0(tmp_path):
    model, tokenizer = random_model("llama", intermediate_size=40)
    formats = tensor_formats(write(model, tokenizer, tmp_path / "m.gguf", "q8_0"))
    assert formats["blk.0.ffn_down.weight"] == "F16"
    assert formats["blk.0.ffn_up.weight"] == "Q8_0"


def test_llama_3_rotations_are_those_of_transformers(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model, tokenizer = random_model("llama", head_dim=32, rope_parameters=scaling)
    file = write(model, tokenizer, tmp_path / "m.gguf")
    plain = 10000.0 ** -(torch.arange(0, 32, 2) / 32)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")
    factors = tensors_in(file)["rope_freqs.weight"]
    torch.testing.assert_close(plain / factors, scaled)
    assert factors[0] == 1
    assert factors[-1] == 8
    assert len(set(factors.tolist())) > 3  # some lie between


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("opt", {}, "not for opt"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}}, "rope_parameters"),
        ("llama", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "rope_parameters"),
        ("qwen3", {"rope_parameters": YARN | {"beta_fast": 16}}, "rope_parameters"),
        ("qwen3", {"rope_parameters": YARN | {"attention_factor": 1.0}}, "rope_parameters"),
        ("qwen3", {"rope_parameters": {"rope_type": "llama3", "factor": 4.0, "rope_theta": 1e4}}, "rope_parameters"),
        ("qwen3", {"attention_bias": True}, "attention_bias: True"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window: True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act: gelu"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused_and_leaves_no_file(family, settings, reason, tmp_path):
    model, tokenizer = random_model(family)
    for name, value in settings.items():
        setattr(model.config, name, value)
    refuse(model, tokenizer, tmp_path, reason)


@pytest.mark.parametrize("value", [1e308, math.inf, math.nan, 10**400, "many", None, [1], True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_no_setting_is_written_that_its_field_cannot_hold(family, value, tmp_path, monkeypatch):
    """Whichever it is: a config.json may give any of them any value."""
    model, tokenizer = random_model(family)
    settings = FAMILIES[model.config.model_type].settings
    for method in settings:
        monkeypatch.setitem(FAMILIES, family, replace(FAMILIES[family], settings=settings | {method: lambda _: value}))
        refuse(model, tokenizer, tmp_path, "does not fit in a GGUF file")


@pytest.mark.parametrize("kind", ["yarn", "linear"])
def test_no_scaling_is_written_that_its_field_cannot_hold(kind, tmp_path):
    for name in ("factor", "original_max_position_embeddings") if kind == "yarn" else ("factor",):
        model, tokenizer = random_model("qwen3")
        model.config.rope_parameters = YARN | {"rope_type": kind, name: 1e308}
        refuse(model, tokenizer, tmp_path, "does not fit in a GGUF file")


@pytest.mark.parametrize("changed", [{"factor": 0.0}, {"factor": math.nan}, {"rope_theta": math.inf}])
def test_rotations_that_no_number_slows_are_refused(changed, tmp_path):
    model, tokenizer = random_model("llama")
    usual = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model.config.rope_parameters = usual | {"original_max_position_embeddings": 512} | changed
    with pytest.raises(ModelError, match=r"slow a rotation by no finite number|does not fit in a GGUF file"):
        write(model, tokenizer, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_vision_models_are_refused(tmp_path):
    model, tokenizer = random_model("qwen3")
    model.config.model_type = "qwen3_vl"
    refuse(model, tokenizer, tmp_path, "not for qwen3_vl")


def test_a_tensor_without_a_place_is_refused(tmp_path):
    model, tokenizer = random_model("llama")
    tensors = tensors_of(model)
    more = ModelTensors(tensors.shapes | {"model.layers.0.extra.weight": (3, 3)}, tensors.read)
    refuse(model, tokenizer, tmp_path, "model.layers.0.extra.weight", tensors=more)


def test_a_missing_output_projection_is_refused(tmp_path):
    model, tokenizer = random_model("llama", tie_word_embeddings=False)
    tensors = tensors_of(model)
    less = {name: shape for name, shape in tensors.shapes.items() if name != "lm_head.weight"}
    refuse(model, tokenizer, tmp_path, "lm_head.weight is missing", tensors=ModelTensors(less, tensors.read))


def test_numbers_beyond_f16_are_refused_half_way_and_an_older_file_stands(tmp_path):
    model, tokenizer = random_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = 1e6
    (tmp_path / "m.gguf").write_text("older")
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight"):
        write(model, tokenizer, tmp_path / "m.gguf", "f16")
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]
    assert (tmp_path / "m.gguf").read_text() == "older"


def test_tensors_are_read_one_at_a_time_and_once(tmp_path):
    model, tokenizer = random_model("llama")
    tensors = tensors_of(model)
    read = []

    def counted(name):
        read.append(name)
        return tensors.read(name)

    write(model, tokenizer, tmp_path / "m.gguf", tensors=ModelTensors(tensors.shapes, counted))
    assert sorted(read) == sorted(tensors.shapes)


def test_bfloat16_weights_are_written_as_they_are(tmp_path):
    _, tokenizer = random_model("llama")
    model = AutoModelForCausalLM.from_config(family_config("llama", len(tokenizer)), dtype=torch.bfloat16)
    found = tensors_in(write(model, tokenizer, tmp_path / "m.gguf", "bf16"))
    assert torch.equal(found["blk.0.ffn_up.weight"], model.model.layers[0].mlp.up_proj.weight.float())


def refuse(model, tokenizer, folder, reason, **given):
    with pytest.raises(ModelError) as caught:
        write(model, tokenizer, folder / "m.gguf", **given)
    assert reason in caught.value.message
    assert caught.value.hint
    assert not list(folder.iterdir())
