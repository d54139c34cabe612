"""int8 is taken where the answers were the same, and nowhere else."""

import pytest
import torch
from random_adapters import save_random_adapter

from lorakit.config import Config
from lorakit.data_processing import Example, Message
from lorakit.engine import PACKINGS, decoder_fault
from lorakit.evaluate import fewer_bits
from lorakit.evaluate.fewer_bits import try_int8
from lorakit.inference import open_adapters
from lorakit.inference.weights import int8_verdict
from lorakit.model_config import AdapterChoice

ROWS = [
    Example((Message("user", text), Message("assistant", "…")), f"row {text}") for text in ("怎样睡好？", "Tea?", "1+1")
]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(int8_verdict, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def session(model_folder, tmp_path):
    """Return a function that opens a base with an adapter, and what the adapter is called."""
    adapter = save_random_adapter(model_folder("qwen3"), tmp_path / "one")
    other = save_random_adapter(model_folder("qwen3"), tmp_path / "other", seed=2)

    def opened(**settings):
        config = Config(
            model_name_or_path=str(model_folder("qwen3")),
            lora_model_path=[str(adapter), str(other)],
            torch_dtype="float32",
            max_new_tokens=8,
            **settings,
        )
        adapters = open_adapters(config)
        if fault := decoder_fault(adapters.assistant.bundle.model):
            pytest.skip(fault)
        return adapters, config

    return opened


def reads(assistant):
    return next(
        name
        for name in PACKINGS
        if assistant.decoding.decoder._hold("head", torch.ones(16, 32)).kind == {"same": 0, "int8": 3, "int4": 3}[name]
    )


@pytest.mark.parametrize("equal", [3, 2])
def test_int8_is_chosen_for_the_adapter_for_which_it_was_found_the_same(session, monkeypatch, equal):
    adapters, config = session()
    assert reads(adapters.assistant) == "same"
    assert "not tried" in str(adapters.assistant.decoding)
    answers = {"same": [(1,), (2,), (3,)], "int8": [(1,), (2,), (3 if equal == 3 else 4,)]}
    monkeypatch.setattr(
        fewer_bits, "answer_ids", lambda assistant, asked, *_, **more: answers[reads(assistant)][: len(asked)]
    )
    verdict = try_int8(adapters.assistant, adapters.made_of, ROWS, config)
    assert (verdict.rows, verdict.equal) == (3, equal)
    later, _ = session()
    assert reads(later.assistant) == ("int8" if equal == 3 else "same")
    assert f"{equal} of 3" in str(later.assistant.decoding)
    later.use("other")
    assert reads(later.assistant) == "same"  # another adapter is another question
    later.base()
    assert reads(later.assistant) == "same"


def test_the_answers_that_are_compared_are_real_ones(session):
    adapters, config = session()
    verdict = try_int8(adapters.assistant, adapters.made_of, ROWS, config)
    assert verdict.rows == 3
    assert 0 <= verdict.equal <= 3


@pytest.mark.parametrize("weights", ["same", "int8", "int4"])
def test_what_is_set_is_taken_and_nothing_is_tried(session, weights):
    adapters, config = session(decode_weights=weights)
    assert reads(adapters.assistant) == ("int8" if weights == "int4" else weights)  # of the output projection
    assert try_int8(adapters.assistant, adapters.made_of, ROWS, config) is None


def test_without_kernels_transformers_answers(session):
    adapters, config = session(cpu_kernels=False)
    assert str(adapters.assistant.decoding) == "transformers (as set in cpu_kernels)"
    assert try_int8(adapters.assistant, [], ROWS, config) is None


def test_a_verdict_belongs_to_weights_and_is_read_with_care(session, tmp_path):
    adapters, _ = session()
    source = adapters.assistant.bundle.source
    one, other = (AdapterChoice("any name", tmp_path / name) for name in ("one", "other"))
    keys = {
        int8_verdict.verdict_key(source, used)
        for used in ([], [one], [other], [one, other], [AdapterChoice("a", tmp_path / "one", 0.5)])
    }
    assert len(keys) == 5
    key = int8_verdict.verdict_key(source, [one])
    int8_verdict.keep_verdict(key, int8_verdict.Verdict(2, 2))
    assert int8_verdict.read_verdict(key).is_same
    for damage in ("", "{}", '{"rows": "many", "equal": 2}', "[1]"):
        int8_verdict._file(key).write_text(damage)
        assert int8_verdict.read_verdict(key) is None
