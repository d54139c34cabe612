"""Pictures as people store them: whatever names or holds one, the same picture stands at the same place."""

import base64
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from vision import SIDE, draw, image_processor, vision_tokenizer

from lorakit.data_processing import ChatFormat, Example, ImageFormat, Message, put_marks
from lorakit.data_processing.example import Rejected, UnusableError
from lorakit.data_processing.files.opening import RawRow, read_rows
from lorakit.data_processing.images import ImageError
from lorakit.data_processing.ledger import Ledger
from lorakit.data_processing.shapes.formats import RowRules, read_conversation, to_example
from lorakit.data_processing.tokens.encoding import encode_row
from lorakit.inference.session import question

TOKENIZER = vision_tokenizer()
CHAT_FORMAT = ChatFormat(
    TOKENIZER,
    ImageFormat(image_processor(), TOKENIZER.convert_tokens_to_ids("<|image_pad|>"), SIDE**2, 64 * SIDE**2),
)
ANSWER = {"role": "assistant", "content": "rot"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    draw(tmp_path / "a.png", (2 * SIDE, 3 * SIDE), "red")
    draw(tmp_path / "b.png", (SIDE, SIDE), "blue")
    return tmp_path


def content(folder):
    return (folder / "a.png").read_bytes()


def in_base64(folder):
    return base64.b64encode(content(folder)).decode()


def user(*parts):
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "Farbe?"}]}, ANSWER]}


MARKED = {"text": "<image>Farbe?", "target": "rot"}
# Each of them has the picture a.png before the question.
SHAPES = {
    "image": lambda _: {**MARKED, "image": "a.png"},
    "without a mark": lambda _: {"text": "Farbe?", "target": "rot", "image": "a.png"},
    "images": lambda _: {**MARKED, "images": ["a.png"]},
    "img": lambda _: {**MARKED, "img": "a.png"},
    "image_path": lambda _: {**MARKED, "image_path": "a.png"},
    "Image File": lambda _: {**MARKED, "Image File": "a.png"},
    "image_name": lambda _: {**MARKED, "image_name": "a.png"},
    "photo_path": lambda _: {**MARKED, "photo_path": "a.png"},
    "screenshot": lambda _: {**MARKED, "screenshot": "a.png"},
    "image_bytes": lambda folder: {**MARKED, "image_bytes": content(folder)},
    "picture": lambda _: {**MARKED, "picture": "a.png"},
    "图片": lambda _: {**MARKED, "图片": "a.png"},
    "a list in a cell": lambda _: {**MARKED, "images": '["a.png"]'},
    "an absolute path": lambda folder: {**MARKED, "image": str(folder / "a.png")},
    "a file address": lambda folder: {**MARKED, "image": (folder / "a.png").as_uri()},
    "null beside a list": lambda _: {**MARKED, "image": None, "images": ["a.png"]},
    "path": lambda _: {**MARKED, "image": {"path": "a.png"}},
    "bytes": lambda folder: {**MARKED, "image": {"bytes": content(folder), "path": None}},
    "bytes before a path": lambda folder: {**MARKED, "image": {"bytes": content(folder), "path": "b.png"}},
    "bytes alone": lambda folder: {**MARKED, "images": [content(folder)]},
    "bytes as numbers": lambda folder: {**MARKED, "image": {"bytes": list(content(folder)), "path": "b.png"}},
    "base64": lambda folder: {**MARKED, "image": in_base64(folder)},
    "a data URL": lambda folder: {**MARKED, "image": f"data:image/png;base64,{in_base64(folder)}"},
    "<img>": lambda _: {"text": "<img>a.png</img>Farbe?", "target": "rot"},
    "part image": lambda _: user({"type": "image", "image": "a.png"}),
    "part path": lambda _: user({"type": "image", "path": "a.png"}),
    "part url": lambda _: user({"type": "image", "url": "a.png"}),
    "part image_url": lambda _: user({"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}}),
    "part image_url as text": lambda _: user({"type": "image_url", "image_url": "a.png"}),
    "part input_image": lambda _: user({"type": "input_image", "image_url": "a.png"}),
    "part with a data URL": lambda folder: user(
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{in_base64(folder)}"}}
    ),
    "Anthropic's part": lambda folder: user(
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": in_base64(folder)}}
    ),
    "placeholder and column": lambda _: {**user({"type": "image"}), "images": ["a.png"]},
    "placeholder and bytes": lambda folder: {**user({"type": "image"}), "images": [{"bytes": content(folder)}]},
    "ShareGPT": lambda _: {
        "conversations": [{"from": "human", "value": "<image>Farbe?"}, {"from": "gpt", "value": "rot"}],
        "image": "a.png",
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_the_same_tokens_and_the_same_picture(place, shape):
    [wanted] = encode_row(_read(SHAPES["image"], place), CHAT_FORMAT, 500).sequences
    [found] = encode_row(_read(SHAPES[shape], place), CHAT_FORMAT, 500).sequences
    assert (found.input_ids, found.labels, found.picture_starts) == (
        wanted.input_ids, wanted.labels, wanted.picture_starts
    )  # fmt: skip
    assert Path(found.pictures[0].path).read_bytes() == content(place)


def _read(shape, folder):
    example = to_example(RawRow(shape(folder), "here", folder), RowRules(takes_pictures=True))
    assert isinstance(example, Example), example
    return example


def test_pictures_of_a_parquet_file_are_its_bytes(place):
    draw(place / "cat.png", (SIDE, SIDE), "blue")  # beside the data, of the same name, and not meant
    rows = [{"text": "Farbe?", "target": "rot", "image": {"bytes": content(place), "path": "cat.png"}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place / "rows.parquet")
    [row] = read_rows(str(place / "rows.parquet"))
    [path] = to_example(row, RowRules(takes_pictures=True)).messages[0].images
    assert Path(path).read_bytes() == content(place)
    assert path.endswith("-cat.png")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (MARKED, "has 1 marks <image> but no picture"),
        ({**MARKED, "image": None}, "has 1 marks <image> but no picture"),
        ({**MARKED, "image": ""}, "has 1 marks <image> but no picture"),
        ({**MARKED, "images": []}, "has 1 marks <image> but no picture"),
        ({"text": "<video>Was?", "target": "x"}, "has the mark <video>"),
        ({"text": "<audio>Was?", "target": "x"}, "has the mark <audio>"),
        (user({"type": "image"}), "a place for a picture that names none"),
        (user({"type": "video", "video": "a.mp4"}), "neither text nor a picture (\"type\": 'video')"),
        (user({"type": "input_audio", "input_audio": {}}), "neither text nor a picture (\"type\": 'input_audio')"),
        ({**user({"type": "image"}, {"type": "image"}), "images": ["a.png"]}, "has 1 pictures but 2 marks"),
        ({**user({"type": "image", "image": "a.png"}), "images": ["a.png"]}, "both in its turns and in"),
        ({**MARKED, "image": "data:image/png;base64,!!"}, "whose base64 is damaged"),
        ({**MARKED, "image": {"bytes": b"", "path": None}}, '"image" is not the path of a picture'),
        ({**MARKED, "image": "https://host/cat.png"}, "is not a file"),
        ({**MARKED, "image": "x\0"}, "is not a possible file name"),
    ],
)
def test_what_cannot_be_placed_is_refused_by_name(place, fields, reason):
    outcome = to_example(RawRow(fields, "here", place), RowRules(takes_pictures=True))
    assert isinstance(outcome, Rejected)
    assert reason in outcome.reason


def test_a_model_of_text_trains_a_mark_as_the_text_that_it_is():
    example = to_example(RawRow({"text": "What is <image> in HTML?", "target": "x"}, "here"), RowRules())
    assert example.messages[0] == Message("user", "What is <image> in HTML?")


def test_a_model_of_text_keeps_nothing_of_pictures_that_it_refuses(place):
    outcome = to_example(RawRow(SHAPES["bytes"](place), "here", place), RowRules(takes_pictures=False))
    assert outcome.reason == "has a picture, but this model takes text only"
    assert not (place / "cache").exists()


def test_a_question_has_its_pictures_at_its_marks_or_before_it():
    assert put_marks(Message("user", "a<image>b"), ["x"]) == Message("user", "a<image>b", ("x",))
    assert question("ab", ["x", "y"]) == Message("user", "<image><image>ab", ("x", "y"))
    with pytest.raises(ImageError, match="has 2 pictures but 1 marks"):
        question("a<image>b", ["x", "y"])
    with pytest.raises(ImageError, match="0 pictures but 1 marks"):
        question("a<image>b", [])
    assert question("a<image>b", [], takes_pictures=False) == Message("user", "a<image>b")
    asked = [{"role": "user", "content": "a<image>b"}]
    with pytest.raises(UnusableError, match="has a mark <image> but no picture for it"):
        read_conversation(asked, takes_pictures=True)
    assert read_conversation(asked, takes_pictures=False) == [Message("user", "a<image>b")]


@pytest.mark.parametrize(("most", "wanted"), [(200, 200), (60_000, 60_000 // 256), (2**31 - 1, 127)])
def test_grey_of_32_bits_keeps_its_brightness(tmp_path, most, wanted):
    Image.new("I", (SIDE, SIDE), most).save(tmp_path / "a.tiff")
    pixels = CHAT_FORMAT.images.measure(str(tmp_path / "a.tiff")).read()
    assert float(pixels.mean()) == pytest.approx((wanted / 255 - 0.5) / 0.5, abs=0.01)  # the processor's own scale


def test_a_conversation_that_is_asked_has_its_pictures_at_its_marks_or_before_its_last_turn():
    first, last = {"role": "user", "content": "a"}, {"role": "user", "content": "b"}
    marked = read_conversation([{**first, "content": "<image>a"}, ANSWER, last], images=["x"])
    assert marked[0] == Message("user", "<image>a", ("x",))
    plain = read_conversation([first, ANSWER, last], images=["x"])
    assert [message.images for message in plain] == [(), (), ("x",)]
    assert plain[-1].content == "<image>b"
    with pytest.raises(UnusableError, match="has 2 pictures but 1 marks"):
        read_conversation([{**first, "content": "<image>a"}], images=["x", "y"])


# Each of them holds the picture, or names it, under a name that says nothing of pictures.
UNNAMED = {
    "file_name": lambda _: "a.png",
    "path": lambda _: "./some folder/A.JPEG",
    "url": lambda _: "https://pictures.org/a.webp?size=3",
    "frames": lambda _: ["a.png", "b.png"],
    "decoded": content,
    "cell": in_base64,
    "link": lambda folder: f"data:image/png;base64,{in_base64(folder)}",
    "thing": lambda folder: {"bytes": content(folder), "path": None},
    "object": lambda _: {"bytes": None, "path": "a.png"},
}


def fates(fields, folder, takes_pictures=True):
    ledger = Ledger()
    row = RawRow({"question": "Farbe?", "answer": "rot", **fields}, "here", folder)
    assert isinstance(to_example(row, RowRules(takes_pictures=takes_pictures), ledger), Example)
    return {fate.place: fate for fate in ledger.fates()}


@pytest.mark.parametrize("name", UNNAMED)
def test_a_field_that_holds_a_picture_stops_the_run_whatever_it_is_called(name, place):
    value = UNNAMED[name](place)
    fate = fates({name: value}, place)[name]
    assert fate.is_meant
    assert fate.remedy.startswith(f"map_fields: {{{name}: images}}")
    if name not in ("url", "path"):  # which name no picture that is there
        row = RawRow({**MARKED, name: value[:1] if isinstance(value, list) else value}, "here", place)
        example = to_example(row, RowRules(takes_pictures=True, map_fields={name: "images"}))
        assert [Path(path).read_bytes() for path in example.messages[0].images] == [content(place)]


def test_a_picture_in_a_turn_stops_the_run_too(place):
    ledger = Ledger()
    turns = [{"role": "user", "content": "Farbe?", "file": "a.png"}, ANSWER]
    to_example(RawRow({"messages": turns}, "here", place), RowRules(takes_pictures=True), ledger)
    [fate] = [fate for fate in ledger.fates() if fate.is_meant]
    assert fate.place == "messages[].file"
    assert '"type": "image"' in fate.remedy


def test_to_a_model_of_texts_the_name_of_a_picture_is_a_name_and_its_bytes_are_not(place):
    assert not fates({"file_name": "a.png"}, place, takes_pictures=False)["file_name"].is_meant
    assert fates({"cell": in_base64(place)}, place, takes_pictures=False)["cell"].is_meant


def test_beside_a_picture_that_is_shown_a_file_name_is_a_name(place):
    assert not fates({"image": "a.png", "file_name": "a.png"}, place)["file_name"].is_meant


def test_texts_that_are_no_pictures_are_none(place):
    for text in (
        "png",
        "see a.png, please",
        "a.txt",
        "iVBORw0KGgo",
        "word " * 30,
        "a.png\nb",
        ["x"],
        {"path": "x"},
        b"GI",
    ):
        assert not fates({"remark": text}, place)["remark"].is_meant
