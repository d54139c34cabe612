"""What a model computes in float32 it must be able to compute in the number format of the run."""

import pytest
import torch
from agreement_models import small_model
from transformers import LlamaForCausalLM

from lorakit.agreement import agreement_of, prove
from lorakit.errors import ModelError
from lorakit.model_config.computing import let_engine_compute
from lorakit.model_config.source import ModelSource


class WantsFloat32(LlamaForCausalLM):
    """Multiplies by a matrix that is never cast."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = torch.nn.functional.linear(output.logits, torch.eye(output.logits.shape[-1]))
        return output


class LearnsInFloat32(LlamaForCausalLM):
    """Fails on the way back only."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        if output.logits.requires_grad:
            output.logits.register_hook(lambda gradient: gradient @ torch.eye(gradient.shape[-1]))
        return output


class AnswersInFloat32(LlamaForCausalLM):
    """Fails where something is kept for later tokens."""

    def forward(self, *args, past_key_values=None, **kwargs):
        output = super().forward(*args, past_key_values=past_key_values, **kwargs)
        if past_key_values is not None:
            output.logits = torch.nn.functional.linear(output.logits, torch.eye(output.logits.shape[-1]))
        return output


class LeavesFloat16(LlamaForCausalLM):
    """Computes what is too large for float16."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 5e5 / 5e5
        return output


FAULTS = {
    WantsFloat32: (torch.bfloat16, "its own code fails: RuntimeError: "),
    LearnsInFloat32: (torch.bfloat16, "its own code fails: RuntimeError: "),
    AnswersInFloat32: (torch.bfloat16, "answering fails: RuntimeError: "),
    LeavesFloat16: (torch.float16, "its own code gives numbers that are not finite"),
}


def loaded(kind, dtype):
    model = small_model("llama").to(dtype)
    model.__class__ = kind
    return model


@pytest.mark.every(2)
@pytest.mark.parametrize("kind", FAULTS)
def test_what_fails_in_the_format_of_the_run_alone_is_found_before_it(kind):
    dtype, fault = FAULTS[kind]
    found = prove(loaded(kind, dtype), dtype)
    assert found.refusal is None
    assert str(found.format_fault).startswith(fault)
    assert prove(loaded(kind, torch.float32)).format_fault is None


@pytest.mark.every(5)
@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "modernbert-decoder", "qwen3_moe", "recurrent_gemma", "gemma3_text"]
)
def test_families_that_compute_in_any_format_are_taken(family):
    found = prove(small_model(family).bfloat16(), torch.bfloat16)
    assert found.refusal is None
    assert found.format_fault is None


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_is_refused_for_what_it_is_in_any_format(family):
    assert "a later token changes" in str(prove(small_model(family).bfloat16(), torch.bfloat16).refusal)


def test_it_is_refused_by_name_with_the_remedy_and_that_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    source = ModelSource("own", tmp_path, False)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"own: .*\(WantsFloat32\) cannot be used in bfloat16: its own") as fault:
            let_engine_compute(loaded(WantsFloat32, torch.bfloat16), source, torch.bfloat16)
        assert fault.value.hint == "set torch_dtype: float32"
    let_engine_compute(loaded(WantsFloat32, torch.float32), source, torch.float32)
    assert agreement_of(loaded(WantsFloat32, torch.float32), "cpu", torch.float32).format_fault is None


def test_a_family_whose_code_wants_float32_somewhere_is_taken_in_that_alone():
    assert "dtype" in str(prove(small_model("xlstm").bfloat16(), torch.bfloat16).format_fault)
    assert prove(small_model("xlstm")).format_fault is None
