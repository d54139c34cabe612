"""A model is read whole, or refused by name before its weights are used."""

import json
import shutil

import pytest
import torch
from agreement_models import small_model
from conftest import family_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from lorakit.engine import choose_dtype
from lorakit.errors import ModelError
from lorakit.model_config import load_model, load_tokenizer, locate_model
from lorakit.model_config.model_class import class_to_read

DEVICE = torch.device("cpu")


@pytest.fixture
def named(model_folder, tmp_path):
    """Return a function from a type to the source of a folder whose config.json names it."""

    def source_of(kind):
        folder = shutil.copytree(model_folder("llama"), tmp_path / kind)
        (folder / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
        return locate_model(str(folder), "huggingface")

    return source_of


@pytest.mark.parametrize("kind", ["bart", "marian", "pegasus", "t5"])
def test_encoder_decoders_are_refused_by_name(named, kind):
    with pytest.raises(ModelError, match=f"of type {kind} reads a question by one half and answers by another"):
        class_to_read(named(kind))


@pytest.mark.parametrize("kind", ["vit", "clip", "wav2vec2"])
def test_types_that_write_no_text_are_refused_by_name(named, kind):
    with pytest.raises(ModelError, match=f"of type {kind} does not continue a text"):
        class_to_read(named(kind))


@pytest.mark.parametrize("kind", ["gemma3", "qwen3_5", "mllama", "llama4", "qwen2_5_vl"])
def test_models_that_also_see_are_read_with_what_they_see_by(named, kind):
    assert class_to_read(named(kind)) is AutoModelForImageTextToText


@pytest.mark.parametrize("kind", ["qwen3_5_text", "gemma3_text", "mistral", "mamba"])
def test_models_of_text_are_read_as_such(named, kind):
    assert class_to_read(named(kind)) is AutoModelForCausalLM


def load(folder):
    source = locate_model(str(folder), "huggingface")
    return load_model(source, load_tokenizer(source), choose_dtype("float32", DEVICE), DEVICE)


def test_files_that_hold_more_than_the_class_has_a_place_for_are_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("llama"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.rotary_emb.inv_freq"] = torch.ones(4)  # which is computed, and old files carry it
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load(folder)
    weights["model.visual.patch_embed.weight"] = torch.ones(4, 4)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"has no place for, model\.visual\.patch_embed\.weight among them"):
        load(folder)


def test_an_encoder_is_refused_by_name_before_the_first_step(tmp_path):
    tokenizer = family_tokenizer("gpt2")
    small_model("bert", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match=r"of type bert \(BertLMHeadModel\) cannot be used: a later token changes"):
        load(tmp_path / "bert")
