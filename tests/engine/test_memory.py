import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from lorakit.engine import MicroBatch, accelerate, backend_of, probe
from lorakit.engine import memory as memory_module
from lorakit.engine.memory import MemoryPlanner, Probe, is_out_of_memory, peak_bytes
from lorakit.engine.runtime import device as device_module

CPU = torch.device("cpu")
SIZES = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


@pytest.fixture
def model():
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES), dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    accelerate(adapted)
    return adapted


def probed(model, batch):
    return probe(model, batch, lambda seconds: True)


def micro_batch(tokens):
    ids = torch.arange(tokens)[None] % 90
    return MicroBatch(ids, ids, ids, torch.tensor([0, tokens]))


def test_what_is_kept_grows_with_the_tokens_and_is_more_than_the_layers_inputs(model):
    few, many = (probed(model, micro_batch(tokens)).kept_bytes_per_token for tokens in (20, 80))
    layer_input = 32 * 4
    gate_and_up = 2 * 64 * 4
    assert 3 * (layer_input + gate_and_up) < few < 3 * 40 * layer_input
    assert few == pytest.approx(many, rel=0.05)


def test_the_probe_leaves_no_trace(model):
    model.eval()
    before = torch.random.get_rng_state()
    probed(model, micro_batch(8))
    assert not model.training
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_row_without_targets_can_be_probed(model):
    batch = micro_batch(8)
    nothing = MicroBatch(batch.input_ids, torch.full_like(batch.next_ids, -100), batch.position_ids, batch.row_starts)
    assert probed(model, nothing).kept_bytes_per_token > 0


def test_a_slow_first_pass_is_measured_again_without_the_count(model, monkeypatch):
    plain, passes = memory_module.summed_loss, []

    def slow_at_first(model, batch):
        time = 100.0 if not passes else 1.0
        passes.append(time)
        clock[0] += time
        return plain(model, batch)

    clock = [0.0]
    monkeypatch.setattr(memory_module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(memory_module, "summed_loss", slow_at_first)
    found = probe(model, micro_batch(10), lambda seconds_per_token: seconds_per_token < 5)
    assert (found.seconds_per_token, found.tokens, len(passes)) == (0.1, 10, 2)
    passes.clear()
    assert probe(model, micro_batch(10), lambda seconds_per_token: seconds_per_token < 50).seconds_per_token == 10.0
    assert len(passes) == 1


def planner(model, monkeypatch, available, kept=1000.0):
    monkeypatch.setattr(memory_module, "_program_and_available", lambda device, model_bytes: (0, available))
    return MemoryPlanner(model, CPU, Probe(kept, 0.1), optimizer_values=2, feature_bytes=0)


def test_the_parts_are_those_of_the_model(model, monkeypatch):
    plan = planner(model, monkeypatch, 10**9).plan(10, is_checkpointed=False)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in model.parameters()) - trained
    assert plan.weights == 4 * frozen
    assert plan.adapter == 2 * 4 * trained  # parameters and gradients
    assert plan.optimizer == 2 * 4 * trained  # the two moments of Adam
    assert plan.activations == 10 * (1000 + 6 * 64 * 4)
    assert plan.loss == 10 * 90 * 4
    assert plan.peak == sum(plan.parts.values())


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer(model, monkeypatch):
    plan = planner(model, monkeypatch, 10**9, kept=30_000.0).plan(10, is_checkpointed=True)
    assert plan.activations == 10 * (3 * 32 * 4 + 10_000 + 6 * 64 * 4)


@pytest.mark.parametrize("is_checkpointed", [True, False])
def test_the_tokens_that_fit_do_fit_and_no_more(model, monkeypatch, is_checkpointed):
    plans = planner(model, monkeypatch, 120_000_000, kept=300_000.0)
    fitting = plans.fitting_tokens(0.5, is_checkpointed)
    assert plans.plan(fitting, is_checkpointed).peak <= 60_000_000
    most_of_loss = memory_module.logits_bytes(10**9, 90, torch.float32, backend_of(model))
    assert plans.plan(fitting + 1, is_checkpointed).peak + most_of_loss > 60_000_000


@pytest.mark.every(0)
def test_a_run_is_never_offered_more_than_the_machine_has(monkeypatch):
    total, _ = device_module.device_memory(CPU)
    assert memory_module._program_and_available(CPU, 0)[1] <= total
    monkeypatch.setattr(memory_module, "resident_bytes", lambda: (2 * total, 2 * total))
    assert memory_module._program_and_available(CPU, 0)[1] == total


def test_mapped_weights_are_counted_once(monkeypatch):
    monkeypatch.setattr(memory_module, "device_memory", lambda device: (10_000, "the machine's"))
    monkeypatch.setattr(memory_module, "free_bytes", lambda device: 7000)  # the pages of the weights among them
    monkeypatch.setattr(memory_module, "resident_bytes", lambda: (5000, 1000))
    program, available = memory_module._program_and_available(CPU, model_bytes=4000)
    assert (program - memory_module._LATER_BYTES, available) == (1000, 8000)


def test_the_peak_never_falls():
    first = peak_bytes(CPU)
    torch.ones(1000)
    assert peak_bytes(CPU) >= first > 1e7


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("std::bad_alloc"), False),
    ],
)
def test_every_word_for_a_lack_of_memory_is_known(error, is_memory):
    assert is_out_of_memory(error) is is_memory
