import pytest
import torch
from conftest import FAMILIES

from lorakit.config import Config
from lorakit.engine import DtypeChoice
from lorakit.errors import SettingsError
from lorakit.model_config import attach_new_adapter, load_model, load_tokenizer, locate_model


def bundle(folder, dtype=torch.float32):
    source = locate_model(str(folder), "huggingface")
    return load_model(source, load_tokenizer(source), DtypeChoice(dtype, "test"), torch.device("cpu"))


LINEAR_LAYERS = {
    "qwen3": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_reaches_every_layer_but_the_head(model_folder, family):
    model = attach_new_adapter(bundle(model_folder(family)), Config(target_modules="all-linear"))
    adapted = {
        name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_A." in name
    }
    assert adapted == LINEAR_LAYERS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_that_does_not_exist_is_answered_with_those_that_do(model_folder, family):
    with pytest.raises(SettingsError) as caught:
        attach_new_adapter(bundle(model_folder(family)), Config(target_modules=["q_prj", "c_atn"]))
    assert "has no layer named q_prj, c_atn" in caught.value.message
    assert all(name in caught.value.message for name in LINEAR_LAYERS[family])
    assert "target_modules: all-linear" in caught.value.hint


def test_gpt2_has_no_q_proj(model_folder):
    with pytest.raises(SettingsError, match=r"its linear layers: .*c_attn"):
        attach_new_adapter(bundle(model_folder("gpt2")), Config(target_modules=["q_proj"]))


def test_the_adapter_is_float32_over_a_bfloat16_base(model_folder):
    model = attach_new_adapter(bundle(model_folder("llama"), torch.bfloat16), Config())
    kinds = {(parameter.requires_grad, parameter.dtype) for parameter in model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_the_settings_reach_peft(model_folder):
    config = Config(lora_r=3, lora_alpha=6, lora_dropout=0.2, target_modules=["v_proj"])
    lora = attach_new_adapter(bundle(model_folder("llama")), config).peft_config["default"]
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (3, 6, 0.2)
    assert isinstance(lora.lora_alpha, int)
    assert lora.target_modules == {"v_proj"}
    assert lora.base_model_name_or_path == str(model_folder("llama"))
