import copy

import torch
from backends import accelerated
from tolerances import assert_computes
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.models.llama import modeling_llama
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP


def model_of(**settings):
    config = LlamaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, **settings)
    config.intermediate_size = 24
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).requires_grad_(False)


def prepared(model):
    return sum(
        "forward" in vars(module)
        for module in model.modules()
        if "RMSNorm" in str(type(module)) or "MLP" in str(type(module))
    )


def test_a_model_computes_the_same_with_them():
    model, ids = model_of(), torch.tensor([[1, 2, 3, 4]])
    plain = copy.deepcopy(model)
    accelerated(model)
    assert prepared(model) == 2 * 3 + 1  # two norms and the MLP of each layer, and the last norm
    assert_computes([model(ids).logits], lambda: [plain(ids).logits])


def test_another_activation_keeps_its_own_mlp():
    model, ids = model_of(hidden_act="gelu"), torch.tensor([[1, 2, 3]])
    plain = copy.deepcopy(model)
    accelerated(model)
    assert prepared(model) == 2 * 2 + 1
    assert_computes([model(ids).logits], lambda: [plain(ids).logits])


def test_a_trained_norm_gets_its_gradient():
    model = model_of()
    accelerated(model)
    norm = model.model.norm.requires_grad_(True)
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert norm.weight.grad.abs().sum() > 0


def test_modules_of_other_kinds_and_the_library_itself_are_left_alone():
    rotation = modeling_llama.apply_rotary_pos_emb
    model = accelerated(torch.nn.Sequential(torch.nn.RMSNorm(4), torch.nn.Linear(4, 4)))
    accelerated(model_of())
    assert prepared(model) == 0
    assert Qwen3MLP.forward.__module__ == "transformers.models.qwen3.modeling_qwen3"
    assert modeling_llama.apply_rotary_pos_emb is rotation
