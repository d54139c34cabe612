"""Models with float16 matrices against plain transformers + PEFT in float32 on the same numbers."""

import pytest
import torch
from backends import accelerated, backend_of_kind
from conftest import FAMILIES
from peft import LoraConfig, get_peft_model
from plain import adapted, gradients, loss_and_gradients, nats, reference
from tolerances import assert_computes
from trained import sequences
from transformers import AutoModelForCausalLM, GenerationConfig

from lorakit.data_processing.tokens.packing import pack_under_budget
from lorakit.engine import PACKED, activation_dtype, hold_in_half, summed_loss
from lorakit.engine.backends.cpu import half_products
from lorakit.engine.backends.cpu.levels import NoKernelsError
from lorakit.engine.layers.half_weights import Half


@pytest.fixture
def widened(monkeypatch):
    """Products without rounding, so that all else can be held against float32 to its last digits."""
    monkeypatch.setattr(half_products, "_kernel_or_fault", lambda: NoKernelsError("none"))


def halved(folder, is_native=True, **settings):
    backend = backend_of_kind(is_native)
    return accelerated(adapted(folder, PACKED, lambda model: hold_in_half(model, backend), **settings), is_native)


def base(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def trained(model):
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def large_weights(model):
    return {name: module.weight for name, module in model.named_modules() if isinstance(module, Half)}


@pytest.mark.every(15)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("budget", "is_native"), [(20, False), (10_000, True)], ids=["PyTorch", "own kernels"])
@pytest.mark.usefixtures("widened")
def test_a_packed_step_is_that_of_rows_one_by_one_in_float32(model_folder, family, budget, is_native):
    folder, rows = model_folder(family), sequences(beginning=9)
    wanted = reference(adapted(folder), rows)
    model = halved(folder, is_native)
    loss = sum(summed_loss(model, batch) for batch in pack_under_budget(rows, budget, is_beginning_shared=True))
    loss.backward()
    wanted.assert_met_by(loss, gradients(model))


@pytest.mark.every(5)
@pytest.mark.parametrize("settings", [{"use_dora": True}, {"use_rslora": True}, {"lora_bias": True}], ids=str)
@pytest.mark.usefixtures("widened")
def test_what_peft_computes_itself_is_the_same_too(model_folder, settings):
    rows, plain, half = sequences(), *(make(model_folder("llama"), **settings) for make in (adapted, halved))
    half.load_state_dict(dict(trained(plain)), strict=False)
    found = loss_and_gradients(half, lambda: sum(nats(half, row) for row in rows))
    reference(plain, rows).assert_met_by(*found)


@pytest.mark.every(2)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("widened")
def test_two_adapters_and_none_are_computed_as_in_float32(model_folder, family):
    ids = torch.arange(5, 25)[None]

    def with_two(model):
        settings = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        model.add_adapter("other", settings)
        model.base_model.set_adapter(["default", "other"])
        torch.manual_seed(7)
        for _, parameter in trained(model):
            parameter.data = 0.1 * torch.randn_like(parameter)
        return model

    @torch.no_grad()
    def logits(model):
        both = model(ids).logits
        with model.disable_adapter():
            return both, model(ids).logits

    plain = with_two(adapted(model_folder(family)))
    assert_computes(logits(with_two(halved(model_folder(family)))), lambda: logits(plain))


@pytest.mark.usefixtures("widened")
def test_answers_are_those_of_float32(model_folder):
    settings = GenerationConfig(max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=None)
    ids = torch.arange(5, 25)[None]
    wanted = adapted(model_folder("qwen3")).eval().generate(input_ids=ids, generation_config=settings)
    model = halved(model_folder("qwen3")).eval()
    assert torch.equal(model.generate(input_ids=ids, generation_config=settings), wanted)


@pytest.mark.every(5)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("half_kernel")
def test_thirty_steps_are_within_a_hundredth_of_float32(model_folder, family):
    def curve(model):
        rows = sequences()
        optimizer = torch.optim.AdamW([parameter for _, parameter in trained(model)], lr=5e-3)
        for _ in range(30):
            [batch] = pack_under_budget(rows, 10_000, is_beginning_shared=False)
            loss = summed_loss(model, batch) / batch.targets
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            yield loss.item()

    settings = {"init_lora_weights": True}
    found = list(curve(halved(model_folder(family), **settings)))
    assert found[-1] < 0.9 * found[0]
    plain = adapted(model_folder(family), PACKED, **settings)
    assert found == pytest.approx(list(curve(plain)), rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_large_matrices_are_float16_and_all_else_float32(model_folder, family, dtype):
    model = base(model_folder(family), dtype)
    hold_in_half(model, backend_of_kind(True))
    large = large_weights(model)
    assert model.get_input_embeddings().weight.dtype is torch.float16
    assert {weight.dtype for weight in large.values()} == {torch.float16}
    rest = set(model.parameters()) - set(large.values())
    assert {parameter.dtype for parameter in rest} == {torch.float32}
    assert all(parameter.dim() == 1 or parameter.shape[0] > 1000 for parameter in rest)  # norms, biases, positions
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert activation_dtype(model) is torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_in_float16_computes_in_the_format_of_its_weights(model_folder, dtype):
    assert activation_dtype(base(model_folder("llama"), dtype)) is dtype


def test_bfloat16_becomes_float16_without_loss(model_folder):
    before = {name: weight.clone() for name, weight in base(model_folder("llama"), torch.bfloat16).state_dict().items()}
    model = base(model_folder("llama"), torch.bfloat16)
    hold_in_half(model, backend_of_kind(True))
    for name, weight in large_weights(model).items():
        was, now = before[f"{name}.weight"].float(), weight.float()
        is_small = was.abs() < 2.0**-14
        assert torch.equal(now[~is_small], was[~is_small])
        assert (now - was).abs().max() <= 2.0**-25


def test_tied_weights_stay_one(model_folder):
    model = base(model_folder("gpt2"))
    assert model.lm_head.weight is model.transformer.wte.weight
    hold_in_half(model, backend_of_kind(True))
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.weight.dtype is torch.float16


@pytest.mark.parametrize("factor", [1000, 1e-5])
@pytest.mark.usefixtures("widened")
def test_a_matrix_that_float16_does_not_hold_stays_float32(model_folder, factor):
    def prepare(model, then=lambda model: None):
        model.model.layers[0].mlp.up_proj.weight.data *= factor
        then(model)

    model = base(model_folder("llama"))
    prepare(model, lambda model: hold_in_half(model, backend_of_kind(True)))
    assert "model.layers.0.mlp.up_proj" not in large_weights(model)
    assert model.model.layers[0].mlp.up_proj.weight.dtype is torch.float32
    with torch.no_grad():
        plain, ids = base(model_folder("llama")), torch.arange(5, 25)[None]
        prepare(plain)
        assert_computes([model(ids).logits], lambda: [plain(ids).logits])


def test_new_adapters_are_float32(model_folder):
    model = base(model_folder("llama"))
    hold_in_half(model, backend_of_kind(True))
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert {parameter.dtype for _, parameter in trained(model)} == {torch.float32}
