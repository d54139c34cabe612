"""The decoder against plain transformers + PEFT: whole texts through their own forward, in float32."""

import ctypes

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from lorakit.engine import Decoder, NotCoveredError, begin, decoder_fault
from lorakit.engine.backends.cpu.levels import NoKernelsError
from lorakit.engine.decoder import coverage as decoder_coverage
from lorakit.engine.decoder import tables as decoding_tables
from lorakit.engine.decoder.prefill import Part, prefill
from lorakit.engine.decoder.weights import held_as_is, packed4, packed8, unpacked

_ROUNDOFF = 2.0**-24  # of float32
_SIZES = {"vocab_size": 203, "hidden_size": 36, "num_hidden_layers": 3, "intermediate_size": 72}
_HEADS = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 12}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
MODELS = {
    "llama": LlamaConfig(**_SIZES, **_HEADS, tie_word_embeddings=True),
    "llama, biases, own head": LlamaConfig(**_SIZES, **_HEADS, attention_bias=True, mlp_bias=True),
    "llama, no groups, even sizes": LlamaConfig(**_SIZES | {"hidden_size": 64}, num_attention_heads=4),
    "llama, yarn": LlamaConfig(**_SIZES, **_HEADS, rope_parameters=_YARN, max_position_embeddings=256),
    "mistral": MistralConfig(**_SIZES, **_HEADS, sliding_window=None),
    "mistral, a window": MistralConfig(**_SIZES, **_HEADS, sliding_window=7),
    "qwen2": Qwen2Config(**_SIZES | {"hidden_size": 40}, num_attention_heads=4, num_key_value_heads=2),
    "qwen2, some windows": Qwen2Config(
        **_SIZES | {"hidden_size": 40},
        num_attention_heads=4,
        num_key_value_heads=4,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
    ),
    "qwen3": Qwen3Config(**_SIZES, **_HEADS, tie_word_embeddings=True),
}
TEXTS = [list(range(3, 20)), [7], [9, 8, 7, 6, 5, 4, 100, 150, 202]]

needed = decoder_fault(AutoModelForCausalLM.from_config(MODELS["llama"]))
pytestmark = pytest.mark.skipif(needed is not None, reason=str(needed))


def made(name, dtype=torch.float32):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MODELS[name], attn_implementation="eager").eval()
    for parameter in model.parameters():
        parameter.data = (parameter.data + 0.1 * torch.randn_like(parameter)).bfloat16().float().to(dtype)
        parameter.requires_grad_(False)
    return model


def with_adapters(model, *names, **settings):
    common = {"r": 3, "lora_alpha": 7, "target_modules": "all-linear", "init_lora_weights": False} | settings
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **common), adapter_name=names[0])
    for rank, name in enumerate(names[1:], start=5):
        adapted.add_adapter(name, LoraConfig(task_type="CAUSAL_LM", **common | {"r": rank}))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn_like(parameter)
    return adapted.eval()


def bound(model, logits, tokens):
    """What sums of so many float32 terms, one after the other through all layers, may be off by."""
    config = model.config
    of_layer = (
        3 * config.hidden_size + config.intermediate_size + config.head_dim + tokens
        if hasattr(config, "head_dim")
        else 500
    )
    terms = config.num_hidden_layers * of_layer + config.hidden_size
    return terms * _ROUNDOFF * logits.abs().max().item()


def plain_logits(model, text):
    with torch.no_grad():
        return model(input_ids=torch.tensor([text])).logits[0].float()  # [tokens, vocabulary]


def assert_close(model, found, wanted, tokens=20):
    torch.testing.assert_close(found, wanted, rtol=0, atol=bound(model, wanted, tokens))


def step_by_step(decoder, texts):
    """Logits of every token, the texts side by side, each at its own place."""
    decoder.open(len(texts), max(map(len, texts)))
    found = [[] for _ in texts]
    for position in range(max(map(len, texts))):
        slots = [slot for slot, text in enumerate(texts) if position < len(text)]
        ids = [texts[slot][position] for slot in slots]
        best, logits = decoder.step(ids, slots, [position] * len(slots), wants_logits=True)
        assert best == logits.argmax(-1).tolist()
        for slot, row in zip(slots, logits, strict=True):
            found[slot].append(row)
    return [torch.stack(rows) for rows in found]


@pytest.mark.parametrize("name", MODELS)
def test_each_token_has_the_logits_of_plain_transformers(name):
    model = made(name)
    assert decoder_fault(model) is None
    for text, found in zip(TEXTS, step_by_step(Decoder(model), TEXTS), strict=True):
        assert_close(model, found, plain_logits(model, text))


@pytest.mark.every(3)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cuts", [(17,), (1, 16), (5, 4, 8)])
def test_a_prompt_computed_in_parts_is_the_same(name, cuts):
    """By PyTorch's products, and all of a part in one call of the C++."""
    model, text = made(name), TEXTS[0]
    wanted = plain_logits(model, text)
    decoder = Decoder(model)
    decoder.open(2, len(text))
    start = 0
    for length in cuts:
        part, end = text[start : start + length], start + length
        by_products = prefill(model, decoder.cache, [Part(0, start, part)])
        _, logits = decoder.step(part, [1] * length, range(start, end), wants_logits=True)
        assert_close(model, by_products[0], wanted[end - 1])
        assert_close(model, logits, wanted[start:end])
        start = end


@pytest.mark.every(3)
@pytest.mark.parametrize("active", [[], ["one"], ["other"], ["one", "other"]])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_adapters_are_added_as_peft_adds_them_and_the_base_stays(name, active):
    model = made(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    decoder = Decoder(model)
    adapted = with_adapters(model, "one", "other")
    adapted.base_model.set_adapter(active or ["one"])
    if not active:
        adapted.base_model.disable_adapter_layers()
    for layer in adapted.modules():
        if hasattr(layer, "set_scale") and hasattr(layer, "lora_A"):
            for number, one in enumerate(active, start=1):
                layer.set_scale(one, 0.3 * number)
    for text, found in zip(TEXTS, step_by_step(decoder, TEXTS), strict=True):
        assert_close(model, found, plain_logits(adapted, text))
    after = {key.replace(".base_layer", ""): value for key, value in adapted.get_base_model().state_dict().items()}
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_change_of_the_adapter_makes_the_cache_forget():
    adapted = with_adapters(made("llama"), "one")
    decoder, text = Decoder(adapted), TEXTS[0]

    def asked():
        decoder.open(1, 32)
        with torch.inference_mode():
            return begin(decoder, [(0, text)])[0]

    def wanted():
        return plain_logits(adapted, text)[-1]

    assert_close(adapted, asked(), wanted())
    assert decoder.known == [text]
    with adapted.disable_adapter():
        assert_close(adapted, asked(), wanted())
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(-1)
    assert_close(adapted, asked(), wanted())


def test_what_prompts_share_is_computed_once_and_remembered(monkeypatch):
    model = made("qwen3")
    decoder = Decoder(model)
    system = [11, 12, 13, 14, 15, 16]
    prompts = [[*system, 20, 21], [*system, 30], [*system, 20, 22, 23], system[:4]]
    computed = []
    plain_step = decoder.step
    monkeypatch.setattr(
        decoder, "step", lambda ids, *rest, **more: computed.append(len(ids)) or plain_step(ids, *rest, **more)
    )
    decoder.open(4, 16)
    with torch.inference_mode():
        found = begin(decoder, list(enumerate(prompts[:3])))
        assert computed == [6, 2 + 1 + 3]
        for logits, prompt in zip(found, prompts, strict=False):
            assert_close(model, logits, plain_logits(model, prompt)[-1])
        again = begin(decoder, [(3, prompts[2]), (0, prompts[3])])
        assert computed[2:] == [1 + 1]
    assert_close(model, again[0], plain_logits(model, prompts[2])[-1])
    assert_close(model, again[1], plain_logits(model, prompts[3])[-1])


def test_a_larger_cache_keeps_what_the_smaller_one_knew():
    model = made("llama")
    decoder, text = Decoder(model), TEXTS[0]
    with torch.inference_mode():
        for capacity in (32, 600):
            decoder.open(1 if capacity == 32 else 3, capacity)
            logits = begin(decoder, [(0, [*text, capacity % 200])])
            assert_close(model, logits[0], plain_logits(model, [*text, capacity % 200])[-1])


def test_a_long_text_is_the_same_at_its_end():
    model = made("llama, no groups, even sizes")
    torch.manual_seed(1)
    text = torch.randint(0, 203, (700,)).tolist()
    wanted = plain_logits(model, text)
    decoder = Decoder(model)
    decoder.open(1, len(text))
    with torch.inference_mode():
        begin(decoder, [(0, text[:650])])
    for position in range(650, 700):
        _, logits = decoder.step([text[position]], [0], [position], wants_logits=True)
        assert_close(model, logits[0], wanted[position], tokens=700)


def test_results_depend_neither_on_threads_nor_on_other_texts():
    model = made("qwen3", torch.bfloat16)
    together = step_by_step(Decoder(model), TEXTS)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        alone = [step_by_step(Decoder(model), [text])[0] for text in TEXTS]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))


@pytest.mark.parametrize("pack", [packed8, packed4])
def test_prompts_read_from_packed_weights_have_the_same_numbers_alone_and_in_company(pack):
    model = made("qwen3")
    torch.manual_seed(2)
    system = torch.randint(0, 203, (40,)).tolist()
    prompts = [[*system, 20, 21], [5, 6, 7], [*system, 20, 22, *system], [9]]

    def logits(asked):
        decoder = Decoder(model, lambda _, weight: pack(weight))
        decoder.open(len(asked), 128)
        with torch.inference_mode():
            return begin(decoder, list(enumerate(asked)))

    together = logits(prompts)
    assert all(torch.equal(row, logits([prompt])[0]) for row, prompt in zip(together, prompts, strict=True))


def test_bfloat16_weights_are_read_as_they_are_and_only_keys_and_values_are_rounded():
    model = made("llama", torch.bfloat16)
    exact = plain_logits(made("llama"), TEXTS[0])
    found = step_by_step(Decoder(model), TEXTS)[0]
    of_transformers = (plain_logits(model, TEXTS[0]) - exact).abs().max()
    assert (found - exact).abs().max() < of_transformers


@pytest.mark.parametrize("pack", [packed8, packed4])
def test_packed_weights_are_near_those_they_stand_for(pack):
    torch.manual_seed(0)
    weight = torch.randn(37, 90) * torch.logspace(-6, 2, 37)[:, None]
    weight[:, :40] += 3 * weight.abs().max(1, keepdim=True)[0]  # all of one sign
    weight[5] = 0
    held = pack(weight)
    found = unpacked(held, *weight.shape)
    spread = 254 if pack is packed8 else 30
    largest = weight.abs().amax(1, keepdim=True)
    # half a step, whose scale may be a 128th too large, and the least of 4 bits in bfloat16
    assert ((found - weight).abs() <= largest * (2 * (1 + 2**-7) / spread + 2**-8)).all()
    assert held.nbytes == 48 * 96 // 32 * (34 if pack is packed8 else 20)


@pytest.mark.parametrize("pack", [packed8, packed4])
@pytest.mark.parametrize("name", ["llama", "llama, no groups, even sizes", "qwen2"])
def test_packed_products_are_those_of_the_unpacked_weights(name, pack):
    """With activations in 8 bits: each of a group off by up to half a 127th of its largest."""
    model, reference = made(name), made(name)
    for module in reference.modules():
        if isinstance(module, torch.nn.Linear) and module is not reference.get_output_embeddings():
            module.weight.data = unpacked(pack(module.weight.data), *module.weight.shape)
    decoder = Decoder(model, lambda place, weight: held_as_is(weight) if place == "head" else pack(weight))
    for text, found in zip(TEXTS, step_by_step(decoder, TEXTS), strict=True):
        wanted = plain_logits(reference, text)
        off = (found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
        # errors of single activations are independent: a 127th over the root of 12 for each of 7 products a layer
        assert off < 3 * (7 * model.config.num_hidden_layers) ** 0.5 / (127 * 12**0.5)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "plain LoRA"),
        ({"modules_to_save": ["embed_tokens"]}, "more than"),
        ({"lora_bias": True}, "plain"),
    ],
)
def test_other_adapters_are_refused(settings, reason):
    adapted = with_adapters(made("llama, biases, own head"), "one", **settings)
    decoder = Decoder(adapted)
    with pytest.raises(NotCoveredError, match=reason):
        decoder.open(1, 8)


def test_a_merged_adapter_is_refused():
    adapted = with_adapters(made("llama"), "one")
    adapted.merge_adapter()
    with pytest.raises(NotCoveredError):
        Decoder(adapted).open(1, 8)


def test_logits_that_are_no_numbers_have_no_best():
    model = made("llama")
    model.get_decoder().norm.weight.data[:] = torch.nan
    decoder = Decoder(model)
    decoder.open(1, 8)
    assert decoder.step([1], [0], [0])[0] == [-1]


def test_what_is_not_covered_says_so(monkeypatch):
    from transformers import GPT2Config

    small = GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2)
    assert decoder_fault(AutoModelForCausalLM.from_config(small)) == "not for gpt2"
    gelu = LlamaConfig(**_SIZES, **_HEADS, hidden_act="gelu")
    assert "layers" in decoder_fault(AutoModelForCausalLM.from_config(gelu))
    dynamic = LlamaConfig(
        **_SIZES, **_HEADS, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    )
    assert "positions" in decoder_fault(AutoModelForCausalLM.from_config(dynamic))

    def fail():
        raise NoKernelsError("there is no C++ compiler")

    monkeypatch.setattr(decoder_coverage, "decode_function", fail)
    assert decoder_fault(made("llama")) == "there is no C++ compiler"


def test_the_tables_are_as_long_as_in_the_source():
    """The structures of both languages; a field more in one of them would shift all others."""
    assert ctypes.sizeof(decoding_tables.Matrix) == 11 * 8
    assert ctypes.sizeof(decoding_tables.Layer) == 7 * 11 * 8 + 7 * 8
    assert ctypes.sizeof(decoding_tables.Model) == 8 + 2 * 11 * 8 + 3 * 8 + 8 * 8 + 8
    assert ctypes.sizeof(decoding_tables.Step) == 8 * 8
