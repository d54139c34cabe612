"""The jobs that are measured, and how much arithmetic each of them needs."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# The example rows that LLaMA-Factory ships. They are no part of this project: without them rows are made up.
ALPACA_FILE = ROOT.parent / "shared" / "data" / "alpaca_en_demo.json"

STARTER = "starter"
RANDOM_QWEN3 = "qwen3-0.6b-random"
RANDOM_QWEN3_VL = "qwen3-vl-2b-quarter-random"


@dataclass(frozen=True)
class Job:
    """What is trained: model, rows, rows of an optimizer step, and how often; whether each row has a picture."""

    name: str
    title: str
    model: str
    rows: int
    rows_per_step: int
    epochs: int = 1
    has_pictures: bool = False


JOBS = {
    job.name: job
    for job in (
        Job("R1", "starter model (SmolLM2-135M-Instruct)", STARTER, rows=64, rows_per_step=8),
        Job("R2", "random weights in the shapes of Qwen3-0.6B", RANDOM_QWEN3, rows=12, rows_per_step=4),
        Job(
            "V1",
            "random weights in the shapes of Qwen3-VL-2B, a quarter of its layers, pictures of 448 x 448",
            RANDOM_QWEN3_VL,
            rows=48,
            rows_per_step=8,
            epochs=3,
            has_pictures=True,
        ),
    )
}


@dataclass(frozen=True)
class Work:
    """What one run of a job has to do, counted once for all tools.

    Attributes:
        rows: Trained, in all epochs.
        tokens: Of all rows, without padding.
        target_tokens: Answers and their end-of-turn tokens.
        layer_parameters: Weights of all linear layers between embedding and output projection.
        vocabulary: Width of the output projection.
        hidden: Its depth.
        rows_source: ``file`` or ``generated``.
        picture_flop: What the vision tower cannot do without: every picture once forward.
        weight_bytes: Of the model's files.
    """

    rows: int
    tokens: int
    target_tokens: int
    layer_parameters: int
    vocabulary: int
    hidden: int
    rows_source: str
    picture_flop: int = 0
    weight_bytes: int = 0

    @property
    def flop(self) -> int:
        """Floating-point operations that LoRA cannot do without.

        Every weight takes 2 in the forward pass and 2 for the gradient of its input; frozen weights have no gradient
        of their own. The output projection is needed for target tokens only. Attention's products, the adapter, norms
        and softmax are left out (a few per cent at these lengths), and so is everything spent on padding.
        """
        layers = 4 * self.layer_parameters * self.tokens
        return layers + 4 * self.vocabulary * self.hidden * self.target_tokens + self.picture_flop

    def bins_per_step(self, rows_per_step: int, bin_tokens: int) -> int:
        """Return how many packed bins hold about as many tokens as a step of whole rows."""
        return max(round(self.tokens / self.rows * rows_per_step / bin_tokens), 1)

    def steps(self, rows_per_step: int) -> int:
        """Optimizer steps, where every epoch is a whole number of them."""
        return math.ceil(self.rows / rows_per_step)


def layer_parameters(config: Mapping[str, Any]) -> int:
    """Count the weights of the linear layers of a Llama or Qwen3 ``config.json``."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_width = config.get("head_dim") or hidden // heads
    queries = hidden * heads * head_width  # q_proj; o_proj has as many
    keys = hidden * config["num_key_value_heads"] * head_width  # k_proj; v_proj has as many
    return int(config["num_hidden_layers"] * (2 * queries + 2 * keys + 3 * hidden * config["intermediate_size"]))


def alpaca_rows(count: int, file: Path = ALPACA_FILE) -> tuple[list[dict[str, str]], str]:
    """Return the first rows of the file, or made-up rows of the same lengths, and which of the two they are."""
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))[:count], "file"
    return generated_rows(count), "generated"


def generated_rows(count: int) -> list[dict[str, str]]:
    """Make up rows as long, in characters, as the file's first ones; always the same."""
    drawn = random.Random(0)  # noqa: S311 - nothing secret
    lengths = [LENGTHS_CHARACTERS[index % len(LENGTHS_CHARACTERS)] for index in range(count)]
    return [
        {"instruction": made_up_text(prompt, drawn), "input": "", "output": made_up_text(answer, drawn)}
        for prompt, answer in lengths
    ]


def made_up_text(characters: int, drawn: random.Random) -> str:
    """Return words that mean nothing, as long as asked for."""
    long_words, short_words = _LONG_WORDS.split(), _SHORT_WORDS.split()
    words: list[str] = []
    while sum(map(len, words)) + len(words) <= characters:
        words.append(drawn.choice(long_words if drawn.random() < _LONG_WORDS_SHARE else short_words))
    return " ".join(words)[: characters - 1] + "."


_LONG_WORDS_SHARE = 0.22  # as many tokens a character as the file has
_LONG_WORDS = (
    "business children country different education energy environment example family government health history human "
    "important information interest knowledge language learning morning nature number people picture problem question "
    "reading reason research result school science society student system understand water weather world writing"
)
_SHORT_WORDS = (
    "a all an and are as at be but by can do for from had has have he in is it its new no not now of on or our out she "
    "so that the their they this to two up use was we who with you"
)

# fmt: off
# (prompt, answer) of the file's first rows, in characters
LENGTHS_CHARACTERS: tuple[tuple[int, int], ...] = (
    (36, 1584), (71, 28), (48, 1694), (50, 132), (74, 429), (92, 277), (46, 138), (48, 1269),
    (85, 70), (49, 1325), (52, 60), (34, 1316), (105, 2417), (54, 320), (83, 1614), (45, 460),
    (107, 51), (82, 104), (20, 1753), (34, 676), (57, 1646), (67, 454), (97, 70), (46, 587),
    (49, 500), (134, 117), (36, 1509), (63, 1160), (40, 363), (119, 4), (99, 1478), (28, 1347),
    (35, 42), (135, 1061), (92, 478), (135, 1), (80, 1163), (165, 3), (57, 1904), (58, 1725),
    (74, 691), (31, 1175), (99, 427), (105, 702), (66, 553), (81, 550), (51, 1444), (130, 178),
    (99, 66), (110, 109), (69, 68), (58, 948), (53, 857), (36, 1067), (71, 492), (50, 1452),
    (68, 1518), (195, 80), (62, 881), (44, 2063), (120, 1161), (51, 169), (72, 1281), (31, 2228),
)
# fmt: on
