import os
import struct
import zlib

import pytest
import torch
from conftest import family_tokenizer
from PIL import Image
from vision import MERGE, PATCH, SIDE, draw, image_processor, vision_tokenizer

from lorakit.data_processing import ChatFormat, ImageFormat
from lorakit.data_processing.example import Rejected
from lorakit.data_processing.files.opening import RawRow
from lorakit.data_processing.images import ImageError, resolve_image
from lorakit.data_processing.shapes.formats import to_example
from lorakit.data_processing.tokens.encoding import encode_row
from lorakit.errors import SettingsError

TOKENIZER = vision_tokenizer()
IMAGE_TOKEN = TOKENIZER.convert_tokens_to_ids("<|image_pad|>")


def image_format(min_pixels=SIDE**2, max_pixels=64 * SIDE**2):
    return ImageFormat(image_processor(), IMAGE_TOKEN, min_pixels, max_pixels)


def encoded(fields, folder, max_length=500):
    example = to_example(RawRow(fields, "here", folder))
    assert not isinstance(example, Rejected), example
    return encode_row(example, ChatFormat(TOKENIZER, image_format()), max_length)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (100, 40), (33, 170), (900, 700)])
def test_the_tokens_of_a_picture_are_those_the_processor_makes(tmp_path, size):
    images = image_format()
    picture = images.measure(draw(tmp_path / "a.png", size, "red") if min(size) > 5 else solid(tmp_path, size))
    patches = picture.read()
    assert patches.shape == (picture.patch_rows * picture.patch_columns, 3 * 2 * PATCH**2)
    assert picture.tokens == len(patches) // MERGE**2 <= 64


def solid(folder, size):
    Image.new("RGB", size, "blue").save(folder / "solid.png")
    return str(folder / "solid.png")


def pixels(path):
    """The picture's colours as the processor gives them to the model, from -1 to 1."""
    picture = image_format().measure(str(path))
    return picture, picture.read().view(-1, 3, 2, PATCH, PATCH).mean(dim=(0, 2, 3, 4))  # [3]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "LA", "I;16"])
def test_every_kind_of_still_picture_becomes_the_colours_a_person_sees(tmp_path, mode):
    file = tmp_path / ("white.tiff" if mode == "CMYK" else "white.png")
    image = Image.new("RGB", (32, 32), "white")
    if mode == "I;16":
        Image.new("I;16", (32, 32), 65535).save(file)
    elif mode in {"RGBA", "LA"}:  # wholly transparent black
        Image.new(mode, (32, 32), 0).save(file)
    else:
        image.convert(mode).save(file)
    _, colours = pixels(file)
    torch.testing.assert_close(colours, torch.ones(3), atol=0.02, rtol=0)


def test_a_picture_taken_upright_stays_upright(tmp_path):
    image = Image.new("RGB", (64, 32), "white")
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    picture, _ = pixels(tmp_path / "turned.jpg")
    assert (picture.token_rows, picture.token_columns) == (64 // SIDE, 32 // SIDE)


def animated(folder):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "bad", format="GIF", save_all=True, append_images=frames[1:])


def truncated(folder):
    draw(folder / "whole.png", (90, 90), "red")
    (folder / "bad").write_bytes((folder / "whole.png").read_bytes()[:120])


def bomb(folder):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 99)), chunk(b"IEND", b"")]
    (folder / "bad").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def fractions(folder):
    Image.new("F", (20, 20), 0.5).save(folder / "bad", format="TIFF")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(trace) (w) file closefile\n%%EOF\n"


def of_format(name, **how):
    return lambda folder: Image.new("RGB", (20, 20), "red").save(folder / "bad", format=name, **how)


FAULTS = {
    "EPS, which Ghostscript would run": (lambda folder: (folder / "bad").write_bytes(EPS), "of an unknown format"),
    "PDF": (lambda folder: (folder / "bad").write_bytes(b"%PDF-1.4\n%%EOF\n"), "of an unknown format"),
    **{f"the format {name}": (of_format(name), "of an unknown format") for name in ("PPM", "PCX", "TGA", "SGI", "ICO")},
    "animated": (animated, "is animated"),
    "truncated": (truncated, "cannot be read"),
    "a decompression bomb": (bomb, "pixels; reduce it"),
    "text": (lambda folder: (folder / "bad").write_text("no picture"), "cannot be read"),
    "empty": (lambda folder: (folder / "bad").write_bytes(b""), "cannot be read"),
    "a folder": (lambda folder: (folder / "bad").mkdir(), "is a folder"),
    "a pipe": (lambda folder: os.mkfifo(folder / "bad"), "is a device, a pipe or a socket"),
    "missing": (lambda folder: None, "does not exist"),
    "numbers below zero": (
        lambda folder: Image.new("I", (20, 20), -5).save(folder / "bad", format="TIFF"),
        "holds numbers below zero",
    ),
    "fractions": (fractions, "holds fractions"),
    "a thread": (lambda folder: Image.new("RGB", (900, 2)).save(folder / "bad", format="PNG"), "too narrow"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_picture_that_cannot_be_used_is_named_with_its_row(tmp_path, kind):
    make, reason = FAULTS[kind]
    make(tmp_path)
    outcome = encoded({"text": "What?", "target": "That.", "image": "bad"}, tmp_path)
    assert isinstance(outcome, Rejected)
    assert outcome.origin == "here"
    assert reason in outcome.reason
    assert "bad" in outcome.reason


def test_a_picture_never_starts_a_program(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *args, **how: started.append(args))
    monkeypatch.setattr("subprocess.check_call", lambda *args, **how: started.append(args))
    (tmp_path / "cat.png").write_bytes(EPS)
    with pytest.raises(ImageError, match="unknown format"):
        image_format().measure(str(tmp_path / "cat.png"))
    assert not started


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_formats_that_are_named_are_read_whatever_a_file_is_called(tmp_path, name):
    of_format(name)(tmp_path)
    assert image_format().measure(str(tmp_path / "bad")).tokens > 0


@pytest.mark.parametrize("name", ["http://host/a.png", "data:image/png;base64,AAAA", " "])
def test_what_is_no_path_is_refused(tmp_path, name):
    with pytest.raises(ImageError):
        resolve_image(name, tmp_path)


def test_bounds_that_exclude_each_other_are_refused():
    with pytest.raises(SettingsError, match="max_pixels: 300 is below min_pixels 400"):
        image_format(min_pixels=400, max_pixels=300)
    with pytest.raises(SettingsError, match="is below one token's"):
        image_format(min_pixels=1, max_pixels=SIDE**2 - 1)


def two_pictures(folder):
    draw(folder / "a.png", (2 * SIDE, 3 * SIDE), "red")
    draw(folder / "b.png", (SIDE, SIDE), "blue")


PARTS = [
    {"type": "image", "image": "a.png"},
    {"type": "text", "text": "und"},
    {"type": "image_url", "image_url": {"url": "b.png"}},
]
ANSWER = {"role": "assistant", "content": "zwei"}
SHAPES = {
    "marks": {"text": "<image>und<image>", "target": "zwei", "images": ["a.png", "b.png"]},
    "content parts": {"messages": [{"role": "user", "content": PARTS}, ANSWER]},
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "<image>und<image>"}, {"from": "gpt", "value": "zwei"}],
        "images": ["a.png", {"path": "b.png"}],
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_pictures_stand_where_their_marks_do(tmp_path, shape):
    two_pictures(tmp_path)
    [sequence] = encoded(SHAPES[shape], tmp_path).sequences
    ids = list(sequence.input_ids)
    assert [picture.tokens for picture in sequence.pictures] == [6, 1]
    text = TOKENIZER.decode(ids)
    opened, closed = "<|vision_start|>", "<|vision_end|>"
    assert f"{opened}{'<|image_pad|>' * 6}{closed}und{opened}<|image_pad|>{closed}" in text
    assert all(ids[start] == IMAGE_TOKEN and ids[start - 1] != IMAGE_TOKEN for start in sequence.picture_starts)
    assert all(label == -100 for token, label in zip(ids, sequence.labels, strict=True) if token == IMAGE_TOKEN)


def test_a_picture_without_a_mark_stands_before_the_question(tmp_path):
    two_pictures(tmp_path)
    [sequence] = encoded({"text": "was?", "target": "rot", "image": "b.png"}, tmp_path).sequences
    assert "user\n<|vision_start|><|image_pad|><|vision_end|>was?" in TOKENIZER.decode(list(sequence.input_ids))


def test_the_prompt_is_the_masked_beginning_of_the_training_row(tmp_path):
    two_pictures(tmp_path)
    example = to_example(RawRow(SHAPES["marks"], "here", tmp_path))
    chat_format = ChatFormat(TOKENIZER, image_format())
    [sequence] = encode_row(example, chat_format, 500).sequences
    prompt = chat_format.prompt_ids(example.messages[:-1])
    assert list(sequence.input_ids[: len(prompt)]) == prompt
    assert set(sequence.labels[: len(prompt)]) == {-100}
    assert sequence.labels[len(prompt)] != -100


def test_a_row_whose_pictures_would_be_cut_is_dropped_and_a_text_before_them_is_cut(tmp_path):
    two_pictures(tmp_path)
    question = {"text": "long " * 30 + "<image>", "target": "rot", "image": "a.png"}
    [whole] = encoded(question, tmp_path).sequences
    [cut] = encoded(question, tmp_path, max_length=len(whole.input_ids) - 20).sequences
    assert [list(cut.input_ids)[start] for start in cut.picture_starts] == [IMAGE_TOKEN]
    assert list(cut.input_ids).count(IMAGE_TOKEN) == 6
    outcome = encoded({"text": "<image>" + "long " * 30, "target": "rot", "image": "a.png"}, tmp_path, max_length=40)
    assert isinstance(outcome, Rejected)
    assert "6 of them pictures, which are never cut" in outcome.reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": "<image><image>", "target": "a", "images": ["a.png"]}, "has 1 pictures but 2 marks"),
        (
            {"messages": [{"role": "user", "content": [*PARTS, {"type": "text", "text": "<image>?"}]}, ANSWER]},
            "has 2 pictures but 3 marks <image> in one turn",
        ),
        ({"text": "q", "target": "a", "image": 3}, '"image" is not the path of a picture'),
        ({"text": "q", "target": "a", "images": [{"bytes": "x"}]}, '"images" is not the path of a picture'),
        ({"text": "q", "target": "a", "image": "https://host/cat.png"}, "is not a file"),
    ],
)
def test_a_row_whose_pictures_cannot_be_placed_is_named(tmp_path, fields, reason):
    outcome = to_example(RawRow(fields, "here", tmp_path))
    assert isinstance(outcome, Rejected)
    assert reason in outcome.reason


def test_a_model_of_text_only_refuses_rows_with_pictures(tmp_path):
    two_pictures(tmp_path)
    example = to_example(RawRow(SHAPES["marks"], "here", tmp_path))
    outcome = encode_row(example, ChatFormat(family_tokenizer("qwen3")), 500)
    assert "takes text only" in outcome.reason


def test_a_picture_whose_content_changes_is_noticed_by_all_who_use_it(tmp_path):
    picture = image_format().measure(draw(tmp_path / "a.png", (70, 50), "red"))
    content, found = (tmp_path / "a.png").read_bytes(), (tmp_path / "a.png").stat()
    picture.check()
    (tmp_path / "a.png").write_bytes(content)  # copied over itself
    picture.check()
    picture.read()
    (tmp_path / "a.png").write_bytes(content[:-20] + content[-19:] + b"!")  # of equal size
    os.utime(tmp_path / "a.png", ns=(found.st_atime_ns, found.st_mtime_ns))  # and equal age, to a glance
    for use in (picture.check, picture.read):
        with pytest.raises(ImageError, match="has changed while it was used"):
            use()


@pytest.mark.parametrize("size", [(65_536, 1), (1, 65_536)])
def test_a_side_of_more_than_65535_pixels_is_refused_before_a_row_is_decoded(tmp_path, size, monkeypatch):
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda picture: pytest.fail("was decoded"))
    Image.new("1", size).save(tmp_path / "long.png")
    with pytest.raises(ImageError, match=f"claims {size[0]} x {size[1]} pixels; reduce it"):
        image_format().measure(str(tmp_path / "long.png"))


def test_a_side_of_65535_pixels_is_within_bounds(tmp_path):
    Image.new("1", (65_535, 1)).save(tmp_path / "long.png")
    with pytest.raises(ImageError, match="is 65535 x 1, too narrow"):
        image_format().measure(str(tmp_path / "long.png"))


def test_a_picture_whose_rounding_would_exceed_max_pixels_is_named(tmp_path):
    Image.new("RGB", (4000, 20), "red").save(tmp_path / "thread.png")
    narrow = ImageFormat(image_processor(), 0, 256, 784)
    with pytest.raises(ImageError, match=r"4000 x 20, so narrow that the model's own rounding makes .* max_pixels 784"):
        narrow.measure(str(tmp_path / "thread.png"))
    for size in ((28, 28), (60, 30), (300, 200), (2000, 2000)):  # of others none exceeds it
        Image.new("RGB", size, "red").save(tmp_path / "plain.png")
        picture = narrow.measure(str(tmp_path / "plain.png"))
        assert picture.patches * 8 * 8 <= 784
