"""A vision-language model: packed rows with pictures against the same rows one by one, in float32."""

import plain
import pytest
import torch
from backends import backend_of_kind
from peft import PeftModel
from vision import SIDE, draw, image_processor, save_vision_model, vision_tokenizer

from lorakit.config import Config
from lorakit.data_processing import ChatFormat, ImageFormat
from lorakit.data_processing.files.opening import RawRow
from lorakit.data_processing.images import ImageError
from lorakit.data_processing.shapes.formats import to_example
from lorakit.data_processing.tokens.encoding import encode_row
from lorakit.data_processing.tokens.packing import pack, pack_under_budget
from lorakit.engine import DtypeChoice, picture_inputs, summed_loss
from lorakit.engine.backends.cpu import half_products
from lorakit.engine.backends.cpu.levels import NoKernelsError
from lorakit.engine.images.pictures import _STORES as STORES
from lorakit.engine.images.pictures import kept_feature_bytes, pixel_inputs
from lorakit.model_config import attach_new_adapter, load_model, load_tokenizer, locate_model

CPU = torch.device("cpu")


FAMILIES = ["qwen3_vl", "qwen2_5_vl"]
# The second one in the slow tests, where it differs in nothing that the engine does.
SOME_FAMILIES = ["qwen3_vl", pytest.param("qwen2_5_vl", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    family = getattr(request, "param", FAMILIES[0])
    return save_vision_model(tmp_path_factory.mktemp(family), family=family)


def bundle(folder, is_half=False, is_native=None, **settings):
    source = locate_model(str(folder), "huggingface")
    dtype, backend = (
        DtypeChoice(torch.float32, "asked", is_half=is_half),
        backend_of_kind(is_half if is_native is None else is_native),
    )
    loaded = load_model(source, load_tokenizer(source), dtype, CPU, backend=backend)
    config = Config(target_modules="all-linear", lora_dropout=0, lora_r=4, **settings)
    torch.manual_seed(3)
    adapted = attach_new_adapter(loaded, config)
    torch.manual_seed(4)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
        if "lora_A" in name:
            parameter.data = parameter.data.half().float()  # as PEFT rounds it beside a weight in float16
    return adapted.train()


@pytest.fixture(scope="module")
def rows(folder, tmp_path_factory):
    """Rows with no, one and three pictures of different sizes."""
    place = tmp_path_factory.mktemp("rows")
    sizes = {"a.png": (2 * SIDE, 3 * SIDE), "b.png": (SIDE, SIDE), "c.png": (5 * SIDE, 2 * SIDE)}
    for (name, size), colour in zip(sizes.items(), ("red", "green", "blue"), strict=True):
        draw(place / name, size, colour)
    tokenizer = load_tokenizer(locate_model(str(folder), "huggingface"))
    token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    chat_format = ChatFormat(tokenizer, ImageFormat(image_processor(), token, SIDE**2, 64 * SIDE**2))
    raw = [
        {"text": "早睡早起好吗？", "target": "好。"},
        {"text": "图里是什么？", "target": "一个圆。", "image": "a.png"},
        {"text": "比较<image>和<image>，还有<image>。", "target": "颜色不同。", "images": ["c.png", "b.png", "a.png"]},
    ]
    examples = [to_example(RawRow(fields, "here", place)) for fields in raw]
    return [encode_row(example, chat_format, 500).sequences[0] for example in examples]


def pixels(row):
    return pixel_inputs(row.pictures, CPU, lambda picture: picture.read())


def nats(model, row):
    """The row's loss by the model's own forward pass, with the processor's pixels."""
    ids, labels = torch.tensor([list(row.input_ids)]), torch.tensor([list(row.labels)])
    token = model.get_base_model().config.image_token_id
    extra = {"mm_token_type_ids": (ids == token).int()} | pixels(row) if row.pictures else {}
    logits = model(input_ids=ids, **extra).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum")


def reference(model, rows):
    return plain.reference(model, rows, nats)


OPTED_IN = [{}, {"train_projector": True}, {"train_vision": True, "train_projector": True}]


@pytest.fixture(scope="module", params=OPTED_IN, ids=["language", "projector", "vision and projector"])
def opted_in(request, folder, rows):
    """Settings of what gets an adapter, and what rows with pictures have one by one with it."""
    return request.param, reference(bundle(folder, **request.param), rows)


@pytest.mark.every(43)
@pytest.mark.parametrize(
    ("budget", "is_half"),
    [(20, False), (10_000, False), (10_000, True)],
    ids=["cut", "whole", "whole, weights in float16"],
)
@pytest.mark.parametrize("is_native", [False, True], ids=["PyTorch", "own kernels"])
@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
def test_a_packed_step_with_pictures_is_that_of_its_rows_one_by_one(
    folder, rows, budget, opted_in, is_native, is_half, monkeypatch
):
    monkeypatch.setattr(half_products, "_kernel_or_fault", lambda: NoKernelsError("it rounds"))
    settings, wanted = opted_in
    model = bundle(folder, is_half, is_native, **settings)
    first, *others = pack_under_budget(rows, budget, is_beginning_shared=True)
    batches = [first.lengthened(first.tokens + 30), *others]  # as in the first step of a run
    loss = sum(summed_loss(model, batch) for batch in batches)
    loss.backward()
    wanted.assert_met_by(loss, plain.gradients(model))


def test_batches_of_text_alone_work_on_a_vision_language_model(folder, rows):
    wanted = reference(bundle(folder), [rows[0], rows[0]])
    batch = pack([rows[0], rows[0]], is_beginning_shared=True)
    assert batch.shared_tokens
    model = bundle(folder)
    wanted.assert_met_by(*plain.loss_and_gradients(model, lambda: summed_loss(model, batch)))


def test_the_adapter_is_where_it_is_asked_for(folder):
    def parts(**settings):
        names = [name for name, p in bundle(folder, **settings).named_parameters() if p.requires_grad]
        return {part for part in ("language_model", "visual.blocks", "merger") for name in names if part in name}

    assert parts() == {"language_model"}
    assert parts(train_projector=True) == {"language_model", "merger"}
    assert parts(train_vision=True) == {"language_model", "visual.blocks"}


def outputs_of(model, pictures):
    return picture_inputs(model.get_base_model(), pictures)["mm_encoder_outputs"]["image"]


@pytest.mark.every(3)
@pytest.mark.parametrize("settings", [{}, {"train_projector": True}], ids=["frozen", "adapted projector"])
@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "float16 products"])
@pytest.mark.parametrize("folder", SOME_FAMILIES, indirect=True)
@pytest.mark.usefixtures("half_kernel")
def test_kept_features_are_those_computed_anew_to_the_last_bit(folder, rows, settings, is_half):
    pictures = rows[2].pictures
    model = bundle(folder, is_half, **settings)
    first, again = outputs_of(model, pictures), outputs_of(model, pictures)
    elsewhere = outputs_of(bundle(folder, is_half, **settings), pictures)
    for features in (again, elsewhere):
        for mine, other in zip(first.pooler_output, features.pooler_output, strict=True):
            assert torch.equal(mine, other)
        for mine, other in zip(first.deepstack_features, features.deepstack_features, strict=True):
            assert all(torch.equal(*pair) for pair in zip(mine, other, strict=True))


@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "float16 products"])
@pytest.mark.parametrize("folder", SOME_FAMILIES, indirect=True)
@pytest.mark.usefixtures("half_kernel")
def test_features_do_not_depend_on_the_company_of_a_picture(folder, rows, is_half):
    pictures = rows[2].pictures
    forward = outputs_of(bundle(folder, is_half), pictures).pooler_output
    backward = outputs_of(bundle(folder, is_half), pictures[::-1]).pooler_output
    assert all(torch.equal(*pair) for pair in zip(forward, backward[::-1], strict=True))


@pytest.mark.parametrize("settings", [{}, {"train_projector": True}], ids=["frozen", "adapted projector"])
def test_a_picture_goes_through_a_frozen_tower_once(folder, rows, settings):
    model = bundle(folder, **settings)
    seen = []
    model.get_base_model().model.visual.register_forward_pre_hook(lambda *_: seen.append(1))
    for _ in range(3):
        summed_loss(model, pack(rows))
    assert len(seen) == len({picture for row in rows for picture in row.pictures}) == 3


def test_an_adapted_projector_gives_other_features_once_its_adapter_has_changed(folder, rows):
    model = bundle(folder, train_projector=True)
    before = outputs_of(model, rows[1].pictures)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "merger" in name and "lora_B" in name:
                parameter.add_(1)
    assert not torch.equal(outputs_of(model, rows[1].pictures).pooler_output[0], before.pooler_output[0])
    with model.disable_adapter():
        without = outputs_of(model, rows[1].pictures).pooler_output[0]
    torch.testing.assert_close(without, outputs_of(bundle(folder), rows[1].pictures).pooler_output[0])


def test_an_adapted_vision_tower_is_never_remembered(folder, rows):
    model = bundle(folder, train_vision=True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert "pixel_values" in picture_inputs(model.get_base_model(), rows[1].pictures)


def test_a_file_that_changes_is_another_picture(folder, tmp_path):
    token = vision_tokenizer().convert_tokens_to_ids("<|image_pad|>")
    images = ImageFormat(image_processor(), token, SIDE**2, 64 * SIDE**2)
    model = bundle(folder)
    before = images.measure(draw(tmp_path / "a.png", (2 * SIDE, 2 * SIDE), "red"))
    features = outputs_of(model, [before]).pooler_output[0]
    after = images.measure(draw(tmp_path / "a.png", (2 * SIDE, 2 * SIDE), "green"))
    assert not torch.equal(outputs_of(model, [after]).pooler_output[0], features)
    with pytest.raises(ImageError, match="has changed while it was used"):
        before.read()


@pytest.mark.parametrize("settings", [{}, {"train_projector": True}], ids=["frozen", "adapted projector"])
@pytest.mark.parametrize("folder", SOME_FAMILIES, indirect=True)
def test_the_memory_of_kept_features_is_known_beforehand(folder, rows, settings):
    model = bundle(folder, **settings).get_base_model()
    pictures = [picture for row in rows for picture in row.pictures]
    expected = kept_feature_bytes(model, pictures)
    picture_inputs(model, pictures)
    features = STORES[model.model.visual].features
    assert expected == sum(tensor.nbytes for kept in features._kept.values() for tensor in kept)


@pytest.mark.parametrize("folder", SOME_FAMILIES, indirect=True)
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
            extra = kinds | pixels(row) if row.pictures else {}
            logits = plain(input_ids=ids, **extra).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum").item()
    assert total == pytest.approx(wanted, rel=1e-5)
