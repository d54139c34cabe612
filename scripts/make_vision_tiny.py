"""Build ``models/vision-tiny``: a small model of the real Qwen3-VL classes, trained whole in under two minutes.

It learns to describe pictures of shapes in English and to repeat Chinese words, so that it is a base worth adapting;
the sample in data/vision asks about pictures in Chinese, which it has never been asked.
``python scripts/make_vision_tiny.py``, then
``python main.py --config configs/vision-tiny.yaml --task train``.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch
from draw_vision_sample import counted, named, placed
from pictures import Scene, draw, random_scene
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast, Qwen3VLConfig
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from lorakit.data_processing import ChatFormat, ImageFormat
from lorakit.data_processing.example import EncodedExample, Example, Message, Rejected
from lorakit.data_processing.tokens.encoding import encode_row
from lorakit.data_processing.tokens.packing import pack
from lorakit.engine import PACKED, register_packed_attention, summed_loss

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "models" / "vision-tiny"
PATCH_PIXELS, MERGED_PATCHES = 14, 2
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
_TEMPLATE_FILE = Path(__file__).parent / "chatml_with_pictures.jinja"
_PICTURES_A_STEP, _REPETITIONS_A_STEP = 24, 8
_LEARNING_RATE = 1e-3
_INITIAL_RANGE = 0.08  # about one over the root of the width; Qwen's own 0.02 is meant for thousands
_NUMBERS = ("zero", "one", "two", "three", "four")


def main() -> None:
    """Build, train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=110, help="how long to train (110)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write the model (models/vision-tiny)")
    options = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    processor = Qwen2VLImageProcessor(patch_size=PATCH_PIXELS, merge_size=MERGED_PATCHES)
    register_packed_attention()
    attention = {"text_config": PACKED, "vision_config": "sdpa"}
    model = AutoModelForImageTextToText.from_config(
        make_config(tokenizer), dtype=torch.float32, attn_implementation=attention
    )
    train(model, tokenizer, processor, options.seconds)
    for part in (model, tokenizer, processor):
        part.save_pretrained(options.folder)
    print(f"written: {options.folder}")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer on the sample's own words."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    source = random.Random(0)
    english = [" ".join(described(random_scene(source), source)) for _ in range(300)]
    chinese = (ROOT / "data" / "vision" / "train.json").read_text(encoding="utf-8").splitlines()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        english + chinese,
        trainers.BpeTrainer(vocab_size=600, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = _TEMPLATE_FILE.read_text(encoding="utf-8").removesuffix("\n")
    return tokenizer


def make_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """Return Qwen3-VL's architecture with four layers of 128."""
    names = {"image": "image_pad", "video": "endoftext", "vision_start": "vision_start", "vision_end": "vision_end"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}
    rope = {"rope_type": "default", "mrope_section": [8, 4, 4], "mrope_interleaved": True, "rope_theta": 10_000.0}
    text = {
        "vocab_size": len(tokenizer),
        "initializer_range": _INITIAL_RANGE,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 1024,
        "rope_parameters": rope,
    }
    vision = {
        "initializer_range": _INITIAL_RANGE,
        "hidden_size": 96,
        "intermediate_size": 256,
        "depth": 4,
        "num_heads": 4,
        "out_hidden_size": 128,
        "patch_size": PATCH_PIXELS,
        "spatial_merge_size": MERGED_PATCHES,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [1, 2],
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def described(scene: Scene, source: random.Random) -> tuple[str, str]:
    """Ask about a scene in English: its shape, its colour, both, how many there are, or where."""
    questions = {
        "What is it?": f"{scene.colour} {scene.shape}",
        "Which shape?": scene.shape,
        "Which colour?": scene.colour,
        "How many?": _NUMBERS[scene.count],
    }
    if scene.place:
        questions["Where?"] = scene.place
    weights = [3, 3] + [1] * (len(questions) - 2)  # shapes are the hardest to learn
    return source.choices(list(questions.items()), weights)[0]


def train(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, processor: object, seconds: float) -> None:
    """Train every weight on new pictures until the time is up."""
    token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    chat_format = ChatFormat(tokenizer, ImageFormat(processor, token, 784, 65_536))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    source, started, step = random.Random(1), time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        while (passed := time.perf_counter() - started) < seconds:
            file = Path(folder) / "picture.png"
            scenes = [random_scene(source) for _ in range(_PICTURES_A_STEP + _REPETITIONS_A_STEP)]
            rows = [_encoded(chat_format, _repetition(scene, source)) for scene in scenes[_PICTURES_A_STEP:]]
            for number, scene in enumerate(scenes[:_PICTURES_A_STEP]):
                draw(scene, source).save(place := file.with_stem(f"{step}-{number}"))
                rows.append(_encoded(chat_format, _description(scene, place, source)))
            batch = pack(rows)
            loss = summed_loss(model, batch) / batch.targets
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = _LEARNING_RATE * min(1.0, (step + 1) / 30) * max(1 - passed / seconds, 0.05)
            optimizer.step()
            optimizer.zero_grad()
            if step % 50 == 0:
                print(f"{passed:5.0f} s, step {step}: loss {loss.item():.3f}", flush=True)
            step += 1


def _description(scene: Scene, file: Path, source: random.Random) -> tuple[Message, Message]:
    question, answer = described(scene, source)
    return Message("user", f"<image>{question}", (str(file),)), Message("assistant", answer)


def _repetition(scene: Scene, source: random.Random) -> tuple[Message, Message]:
    tasks = [named, counted] + ([placed] if scene.place else [])
    words = source.choice(tasks)(scene)[source.choice(("text", "target"))]
    return Message("user", f"说：{words}"), Message("assistant", words)


def _encoded(chat_format: ChatFormat, messages: tuple[Message, Message]) -> EncodedExample:
    encoded = encode_row(Example(messages, "drawn"), chat_format, max_length=1024)
    if isinstance(encoded, Rejected):
        raise TypeError(encoded.reason)
    return encoded.sequences[0]


if __name__ == "__main__":
    main()
