"""lorakit in Python: the example of the documentation, run as it stands, and what can go wrong."""

import doctest
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from random_adapters import plain_logits, plain_model, save_random_adapter

import lorakit
from lorakit import api
from lorakit.errors import LorakitError, SettingsError


@pytest.fixture
def model(model_folder, tmp_path):
    base = model_folder("llama")
    paths = {name: save_random_adapter(base, tmp_path / name, seed) for seed, name in enumerate("ab")}
    return lorakit.load(base, adapters=paths, torch_dtype="float32", max_new_tokens=8)


def test_importing_the_package_loads_no_torch():
    code = "import lorakit, sys; assert not {'torch', 'transformers', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


EXAMPLES = [test for test in doctest.DocTestFinder().find(api) if test.examples]


@pytest.mark.every(4)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_examples_of_the_docstrings_run(example, model_folder, tmp_path, monkeypatch):
    base = model_folder("qwen3")
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "starter").symlink_to(base)
    save_random_adapter(base, tmp_path / "output" / "lora_model")
    monkeypatch.chdir(tmp_path)
    model = lorakit.load("./starter", adapters={"sleep": "output/lora_model"}, torch_dtype="float32")
    monkeypatch.setattr(lorakit, "load", lambda name, **settings: api.load(f"./{name}", **settings))
    example.globs = {"lorakit": lorakit, "model": model}
    monkeypatch.setattr(doctest, "ELLIPSIS_MARKER", "[...]")  # of what is printed beside the result
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(example, out=said.append).failed == 0, "".join(said)


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(model_folder, tmp_path, monkeypatch, capsys):
    base = model_folder("qwen3")
    (tmp_path / "output").mkdir()
    (tmp_path / "data").symlink_to(ROOT / "data")
    save_random_adapter(base, tmp_path / "output" / "lora_model")
    text = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    code = (
        re.search(r"```python\n(import lorakit\n.*?)```", text, re.DOTALL)
        .group(1)
        .replace('"starter"', repr(str(base)))
    )
    code = code.replace('"output_dir": "output/second"', '"output_dir": "output/second", "num_train_epochs": 1')
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.startswith("('mine',) {'mine': 1.0}\n")
    assert (tmp_path / "output" / "second" / "lora_model").is_dir()
    assert (tmp_path / "output" / "mixed" / "proof.json").is_file()


def test_answers_change_with_the_adapter_and_come_back(model):
    first = model.generate("怎样睡好？")
    model.use("b")
    second = model.generate("怎样睡好？")
    model.base()
    base = model.generate("怎样睡好？")
    assert len({first, second, base}) == 3
    assert model.active == {}
    with model.using("a"):
        assert model.generate("怎样睡好？") == first
    assert model.generate("怎样睡好？") == base
    model.mix({"a": 1.0})
    assert model.generate("怎样睡好？") == first


def test_adapters_come_and_go(model, tmp_path):
    assert model.adapters == ("a", "b")
    model.unload("a")
    assert model.load(tmp_path / "a", "again") == "again"
    assert model.load(f"{tmp_path / 'a'}:0.5") == "a"
    model.use("a")
    assert model.active == {"a": 0.5}


def test_a_mixture_is_merged_and_the_model_stays(model, model_folder, tmp_path, write_rows):
    model.mix({"a": 0.7, "b": 0.3})
    before = model.generate("怎样睡好？")
    rows = write_rows([{"text": "怎样睡好？", "target": "早睡。"}])
    model.merge(tmp_path / "merged", validation_file=rows)
    from random_adapters import logits_of
    from torch.testing import assert_close

    wanted = plain_logits(model_folder("llama"), [(tmp_path / "a", 0.7), (tmp_path / "b", 0.3)])
    assert_close(logits_of(plain_model(tmp_path / "merged")), wanted, rtol=1e-4, atol=1e-4)
    assert model.generate("怎样睡好？") == before


def test_a_conversation_is_answered_in_its_context(model):
    turns = [
        {"role": "user", "content": "A?"},
        {"role": "assistant", "content": "B."},
        {"role": "user", "content": "C?"},
    ]
    assert model.generate(turns) != model.generate("C?")


@pytest.mark.every(3)
@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda model: model.generate([{"role": "robot", "content": "?"}]), "turn 1 has the role"),
        (lambda model: model.generate([{"content": "?"}]), "turn 1 has the role"),
        (lambda model: model.generate([{"role": "assistant", "content": "?"}]), "ends with a question"),
        (lambda model: model.generate([]), "ends with a question"),
        (lambda model: model.generate("?", max_new_tokens=0), "max_new_tokens must be at least 1"),
        (lambda model: model.generate("?", thinking=True), "takes no thinking"),
        (lambda model: model.use("c"), "no adapter called 'c'"),
        (lambda model: model.load("nowhere"), "there is no adapter here"),
        (lambda model: (model.base(), model.merge("x")), "no adapter is in use"),
        (lambda model: model.merge("x"), "the proof needs questions"),
        (lambda model: model.generate(5), "int: is no question and no list of turns"),
        (lambda model: model.generate([5]), "list: is no question and no list of turns"),
        (lambda model: model.load("a\0b"), "is not a possible file name"),
    ],
)
def test_a_fault_names_place_and_remedy(model, attempt, said):
    with pytest.raises(LorakitError, match=re.escape(said)):
        attempt(model)


def test_settings_are_checked_before_anything_is_loaded():
    with pytest.raises(SettingsError, match=r"lorakit\.load: temperature must be at least 0"):
        lorakit.load("nowhere", temperature=-1)


def test_only_what_is_promised_is_there():
    assert {"load", "LoadedModel"} <= set(dir(lorakit))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lorakit.nothing
