"""Tokens of the user's own: trained, saved, asked, merged and exported, and loaded by plain PEFT + transformers."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorakit.cli import main
from lorakit.config import Config, load_config
from lorakit.data_processing import ChatFormat, Message
from lorakit.errors import SettingsError
from lorakit.inference.adapters import open_assistant
from lorakit.model_config.added_tokens import add_tokens

SOME_FAMILIES = ["gpt2", *(pytest.param(family, marks=pytest.mark.slow) for family in ("qwen3", "llama", "opt"))]
TOKENS = ["<doc>", "<cite>"]
ROWS = [{"text": f"<doc> number {n}", "target": f"see <cite> {n}"} for n in range(6)]


@pytest.fixture(scope="module")
def trained(model_folder, tmp_path_factory):
    """Return a function from a family to its folder and that of an adapter with tokens, trained once."""
    done = {}

    def train(family):
        if family not in done:
            folder = tmp_path_factory.mktemp(family)
            (folder / "rows.json").write_text(json.dumps(ROWS))
            (folder / "config.yaml").write_text(
                f"model_name_or_path: {model_folder(family)}\ntrain_file: {folder}/rows.json\nvalidation_file: null\n"
                f"output_dir: {folder}/out\nadd_tokens: ['<doc>', '<cite>']\nnum_train_epochs: 2\n"
                "torch_dtype: float32\n"
                "learning_rate: 0.01\nmax_new_tokens: 8\nmax_generated_rows: 2\ntarget_modules: all-linear\n"
            )
            assert main(["--task", "train", "--config", str(folder / "config.yaml")]) == 0
            done[family] = model_folder(family), folder
        return done[family]

    return train


def plain(base, adapter):
    """The adapter on its base by nothing but transformers and PEFT, as PEFT's documentation has it."""
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    return tokenizer, PeftModel.from_pretrained(model, str(adapter)).eval()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_their_rows_are_trained_and_load_in_plain_peft(family, trained):
    base, folder = trained(family)
    adapter = folder / "out" / "lora_model"
    tokenizer, model = plain(base, adapter)
    assert [len(tokenizer(token, add_special_tokens=False)["input_ids"]) for token in TOKENS] == [1, 1]
    with safe_open(adapter / "adapter_model.safetensors", "pt") as weights:
        names = [name for name in weights.keys() if "lora_" not in name]  # noqa: SIM118 - it is no mapping
        rows = [weights.get_tensor(name) for name in names]
    is_tied = model.config.tie_word_embeddings
    assert len(names) == (1 if is_tied else 2)
    assert all(len(row) == len(TOKENS) for row in rows)
    assistant = open_assistant(load_config(str(folder / "config.yaml"), {}, []))
    ids = assistant.chat_format.prompt_ids([Message("user", "<doc> number 3")])
    assert tokenizer.convert_tokens_to_ids("<doc>") in ids
    with torch.no_grad():
        own = assistant.bundle.model(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(own, logits(model, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_merged_they_are_rows_of_the_model_with_proof(family, trained):
    base, folder = trained(family)
    arguments = ["--config", str(folder / "config.yaml"), "--set", f"validation_file={folder}/rows.json"]
    assert main(["--task", "merge", *arguments]) == 0
    merged = folder / "out" / "merged"
    assert json.loads((merged / "proof.json").read_text())["proven"]
    tokenizer, model = plain(base, folder / "out" / "lora_model")
    own, whole = AutoTokenizer.from_pretrained(merged), AutoModelForCausalLM.from_pretrained(merged).float()
    assert own.get_vocab() == tokenizer.get_vocab()
    ids = own("<doc> number 3 <cite>", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(logits(whole, ids), logits(model, ids), rtol=1e-4, atol=1e-4)
    assert whole.config.tie_word_embeddings == model.config.tie_word_embeddings


@pytest.mark.slow
@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_exported_as_gguf_they_are_proven_too(family, trained, capsys):
    _, folder = trained(family)
    arguments = ["--config", str(folder / "config.yaml"), "--set", f"validation_file={folder}/rows.json"]
    code = main(["--task", "export", "--format", "gguf", *arguments])
    assert code in (0, 2)
    if code == 2:  # the adapter alone cannot be written so; that is said, and what can be done
        assert "merge" in capsys.readouterr().err


def test_their_rows_begin_as_the_mean_of_their_pieces(model_folder):
    from lorakit.engine import choose_device
    from lorakit.model_config import attach_new_adapter, choose_format, load_model, load_tokenizer, locate_model

    source = locate_model(str(model_folder("gpt2")), "huggingface")
    config, tokenizer = (
        Config(add_tokens=TOKENS, torch_dtype="float32", target_modules="all-linear"),
        load_tokenizer(source),
    )
    before = [tokenizer(token)["input_ids"] for token in TOKENS]
    add_tokens(tokenizer, TOKENS)
    dtype = choose_format(config, source, choose_device(), None)
    bundle = load_model(source, tokenizer, dtype, choose_device(), None, rows=len(tokenizer))
    weight = bundle.model.get_input_embeddings().weight.detach().clone()
    model = attach_new_adapter(bundle, config)
    found = model.get_input_embeddings()(torch.tensor(tokenizer.convert_tokens_to_ids(TOKENS)))
    torch.testing.assert_close(found, torch.stack([weight[ids].mean(dim=0) for ids in before]))


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["a b"], "is no single word"),
        ([""], "is no single word"),
        (["x" * 101], "is no single word"),
        (["<doc>", "<doc>"], "is one token already"),
        (["a"], "is one token already"),
        (["<|endoftext|>"], "is one token already"),
    ],
)
def test_what_is_no_new_token_is_refused(tokens, words, model_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder("gpt2"))
    with pytest.raises(SettingsError, match=words):
        add_tokens(tokenizer, tokens)


def test_they_are_one_token_in_questions_and_answers(model_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder("qwen3"))
    add_tokens(tokenizer, TOKENS)
    chat_format = ChatFormat(tokenizer)
    [turn] = chat_format.turns([Message("user", "a<doc>b"), Message("assistant", "see <cite>1")])
    [(prompt, answer)] = chat_format.encode_turns([turn])
    numbers = tokenizer.convert_tokens_to_ids(TOKENS)
    assert (prompt.count(numbers[0]), answer.count(numbers[1])) == (1, 1)
