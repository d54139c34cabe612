import pytest
import torch
from transformers import AutoModelForImageTextToText
from vision import vision_config, vision_tokenizer

from lorakit.data_processing.tokens.positions import mrope_positions
from lorakit.engine import Picture


def picture(rows, columns):
    return Picture("p", "", rows * 2, columns * 2, 2, lambda: torch.zeros(0))


def test_places_by_hand():
    # one text token, a picture of 2 x 3 tokens, one text token
    assert mrope_positions(8, [(1, picture(2, 3))]).tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 4],
        [0, 1, 1, 1, 2, 2, 2, 4],
        [0, 1, 2, 3, 1, 2, 3, 4],
    ]


@pytest.mark.parametrize("grids", [[], [(2, 3)], [(1, 1), (4, 2), (3, 3)]])
def test_places_are_those_of_the_model(grids):
    tokenizer = vision_tokenizer()
    model = AutoModelForImageTextToText.from_config(vision_config(tokenizer))
    kinds, placed = [0, 0, 0], []
    for rows, columns in grids:
        placed.append((len(kinds), picture(rows, columns)))
        kinds += [1] * (rows * columns) + [0, 0]
    wanted, _ = model.model.get_rope_index(
        input_ids=torch.zeros(1, len(kinds), dtype=torch.long),
        mm_token_type_ids=torch.tensor([kinds]),
        image_grid_thw=torch.tensor([[1, rows * 2, columns * 2] for rows, columns in grids]) if grids else None,
    )
    assert torch.equal(mrope_positions(len(kinds), placed), wanted[:, 0])
