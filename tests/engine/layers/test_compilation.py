import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from lorakit.engine import MicroBatch, accelerate, register_packed_attention, summed_loss, uncompiled
from lorakit.engine.layers import compilation as compilation_module
from lorakit.engine.layers.compilation import compiled_layers, decide_compilation, keep_compilation

CPU = torch.device("cpu")


@pytest.fixture
def _compiler(monkeypatch):
    monkeypatch.setattr(compilation_module, "compiler_fault", lambda device: None)


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize(
    ("setting", "seconds", "decision", "reason"),
    [
        ("auto", 90, False, "about 1.5 minutes"),
        ("auto", 3600, True, "about 60 minutes"),
        (True, 1, True, "as set"),
        (False, 1e6, False, "as set"),
    ],
)
def test_it_pays_for_long_runs(setting, seconds, decision, reason):
    found, why = decide_compilation(setting, seconds, CPU)
    assert found is decision
    assert reason in why


@pytest.mark.usefixtures("_compiler")
def test_where_kernels_compute_layers_are_compiled_only_when_asked_for():
    assert decide_compilation("auto", 1e6, CPU, has_kernels=True) == (False, "lorakit's own C++ gains more")
    assert decide_compilation(True, 1e6, CPU, has_kernels=True)[0]


@pytest.mark.parametrize("setting", ["auto", True])
def test_without_a_compiler_it_is_off_with_the_reason(monkeypatch, setting):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert decide_compilation(setting, 1e6, CPU) == (False, "there is no C++ compiler")


@pytest.mark.parametrize(
    ("was_compiled", "setting", "seconds", "decision"),
    [
        (True, "auto", 3600, True),
        (True, "auto", 300, True),  # the same run, estimated otherwise
        (True, "auto", 5, False),  # no run decides so: a checkpoint from a stranger asks for a minute of compiling
        (True, True, 5, True),
        (True, False, 3600, False),
        (False, "auto", 3600, False),
    ],
)
def test_a_resumed_run_compiles_as_before_unless_no_run_would_have(was_compiled, setting, seconds, decision):
    assert keep_compilation(was_compiled, setting, seconds)[0] is decision


@pytest.mark.slow
def test_what_cannot_be_compiled_runs_as_before(monkeypatch):
    calls = []

    def broken(graph, inputs, **options):
        calls.append(graph)
        raise RuntimeError("the compiler is broken")

    model = made()
    wanted = loss_and_gradients(model, [5, 4])
    torch._dynamo.reset()
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
    with compiled_layers(model):
        assert_close(loss_and_gradients(model, [5, 4]), wanted)
    assert calls


def made():
    register_packed_attention()
    config = LlamaConfig(
        vocab_size=90, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="lorakit_packed")
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora).train()
    accelerate(model)
    return model


def loss_and_gradients(model, lengths):
    model.zero_grad()
    tokens = sum(lengths)
    ids = (torch.arange(tokens) * 7 % 90)[None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    starts = torch.tensor([0, *lengths]).cumsum(0)
    loss = summed_loss(model, MicroBatch(ids, ids, positions, starts))
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_close(found, wanted):
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.skipif(compilation_module.compiler_fault(CPU) is not None, reason="needs a C++ compiler")
def test_compiled_layers_compute_the_same_for_rows_of_any_lengths_and_are_compiled_once():
    model = made()
    shapes = ([5, 4], [3, 3, 9], [12], [2, 7, 3, 4])
    wanted = [loss_and_gradients(model, lengths) for lengths in shapes]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with compiled_layers(model):
        assert_close(loss_and_gradients(model, shapes[0]), wanted[0])
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert graphs > 0
        for lengths, expected in zip(shapes[1:], wanted[1:], strict=True):
            assert_close(loss_and_gradients(model, lengths), expected)
        with torch.inference_mode(), uncompiled():
            model(input_ids=torch.tensor([[1, 2, 3]]))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert all(layer._compiled_call_impl is None for layer in model.get_base_model().model.layers)
