"""A vision-language model: packed rows with pictures against the same rows one by one, in float32."""

import pytest
import torch
from peft import PeftModel
from vision import SIDE, draw, image_processor, save_vision_model, vision_tokenizer

from lorakit.config import Config
from lorakit.data_processing import ChatFormat, ImageFormat
from lorakit.data_processing.encoding import encode_row
from lorakit.data_processing.files import RawRow
from lorakit.data_processing.formats import FieldNames, to_example
from lorakit.data_processing.packing import pack, pack_under_budget
from lorakit.engine import DtypeChoice, pixel_inputs, summed_loss
from lorakit.engine.pictures import FeatureCache, picture_inputs
from lorakit.model_config import attach_new_adapter, load_model, load_tokenizer, locate_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_vision_model(tmp_path_factory.mktemp("qwen3-vl"))


def bundle(folder, **settings):
    source = locate_model(str(folder), "huggingface")
    loaded = load_model(source, load_tokenizer(source), DtypeChoice(torch.float32, "asked"), CPU)
    config = Config(target_modules="all-linear", lora_dropout=0, lora_r=4, **settings)
    torch.manual_seed(3)
    adapted = attach_new_adapter(loaded, config)
    torch.manual_seed(4)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
    return adapted.train()


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows with no, one and three pictures of different sizes."""
    place = tmp_path_factory.mktemp("rows")
    sizes = {"a.png": (2 * SIDE, 3 * SIDE), "b.png": (SIDE, SIDE), "c.png": (5 * SIDE, 2 * SIDE)}
    for (name, size), colour in zip(sizes.items(), ("red", "green", "blue"), strict=True):
        draw(place / name, size, colour)
    tokenizer = vision_tokenizer()
    token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    chat_format = ChatFormat(tokenizer, ImageFormat(image_processor(), token, SIDE**2, 64 * SIDE**2))
    raw = [
        {"text": "早睡早起好吗？", "target": "好。"},
        {"text": "图里是什么？", "target": "一个圆。", "image": "a.png"},
        {"text": "比较<image>和<image>，还有<image>。", "target": "颜色不同。", "images": ["c.png", "b.png", "a.png"]},
    ]
    examples = [to_example(RawRow(fields, "here"), FieldNames(), folder=place) for fields in raw]
    return [encode_row(example, chat_format, 500).sequences[0] for example in examples]


def reference(model, rows):
    """The rows one by one through the model's own forward pass, with the processor's pixels."""
    total = torch.zeros(())
    for row in rows:
        ids, labels = torch.tensor([list(row.input_ids)]), torch.tensor([list(row.labels)])
        token = model.get_base_model().config.image_token_id
        extra = {"mm_token_type_ids": (ids == token).int()} | pixel_inputs(row.pictures, CPU) if row.pictures else {}
        logits = model(input_ids=ids, **extra).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum")
    total.backward()
    return total.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


OPTED_IN = [{}, {"train_projector": True}, {"train_vision": True, "train_projector": True}]


@pytest.mark.parametrize("settings", OPTED_IN, ids=["language", "projector", "vision and projector"])
@pytest.mark.parametrize("budget", [20, 10_000])
def test_a_packed_step_with_pictures_is_that_of_its_rows_one_by_one(folder, rows, budget, settings):
    wanted_loss, wanted = reference(bundle(folder, **settings), rows)
    model = bundle(folder, **settings)
    batches = list(pack_under_budget(rows, budget, is_beginning_shared=True))
    loss = sum(summed_loss(model, batch) for batch in batches)
    loss.backward()
    assert loss.item() == pytest.approx(wanted_loss, rel=1e-5)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        scale = gradient.abs().max()
        assert scale > 0, f"{name}: nothing is learnt"
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=2e-5 * scale.item(), msg=name)


def test_batches_of_text_alone_work_on_a_vision_language_model(folder, rows):
    wanted, _ = reference(bundle(folder), rows[:1])
    batch = pack([rows[0], rows[0]], is_beginning_shared=True)
    assert batch.shared_tokens
    assert summed_loss(bundle(folder), batch).item() == pytest.approx(2 * wanted, rel=1e-5)


def test_the_adapter_is_where_it_is_asked_for(folder):
    def parts(**settings):
        names = [name for name, p in bundle(folder, **settings).named_parameters() if p.requires_grad]
        return {part for part in ("language_model", "visual.blocks", "merger") for name in names if part in name}

    assert parts() == {"language_model"}
    assert parts(train_projector=True) == {"language_model", "merger"}
    assert parts(train_vision=True) == {"language_model", "visual.blocks"}


def test_kept_features_are_those_computed_anew_to_the_last_bit(folder, rows):
    model = bundle(folder).get_base_model()
    pictures = rows[2].pictures

    def features():
        outputs = picture_inputs(model, pictures)["mm_encoder_outputs"]["image"]
        return [*outputs.pooler_output, *(tensor for layer in outputs.deepstack_features for tensor in layer)]

    kept = features()
    assert all(first is again for first, again in zip(kept, features(), strict=True))
    fresh_model = bundle(folder).get_base_model()
    outputs = picture_inputs(fresh_model, pictures[::-1])["mm_encoder_outputs"]["image"]
    for mine, other in zip(kept[: len(pictures)], outputs.pooler_output[::-1], strict=True):
        assert torch.equal(mine, other)


def test_an_adapted_vision_tower_is_never_remembered(folder, rows):
    model = bundle(folder, train_projector=True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert "pixel_values" in picture_inputs(model.get_base_model(), rows[1].pictures)


def test_the_cache_drops_what_was_not_used_for_longest():
    class Features:
        size_bytes = 10

    computed = []

    def compute(picture):
        computed.append(picture)
        return Features()

    cache = FeatureCache(most_bytes=20)
    for picture in ("a", "b", "a", "c", "a", "b"):
        cache.get(picture, compute)
    assert computed == ["a", "b", "c", "b"]


def test_the_adapter_loads_in_plain_peft_on_the_plain_model(folder, rows, tmp_path):
    from transformers import AutoModelForImageTextToText

    model = bundle(folder, train_projector=True).eval()
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32), tmp_path
    )
    with torch.no_grad():
        wanted = sum(summed_loss(model, pack([row])) for row in rows).item()
        plain.eval()
        total = 0.0
        for row in rows:
            ids, labels = torch.tensor([list(row.input_ids)]), torch.tensor([list(row.labels)])
            kinds = {"mm_token_type_ids": (ids == plain.config.image_token_id).int()}
            extra = kinds | pixel_inputs(row.pictures, CPU) if row.pictures else {}
            logits = plain(input_ids=ids, **extra).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum").item()
    assert total == pytest.approx(wanted, rel=1e-5)
