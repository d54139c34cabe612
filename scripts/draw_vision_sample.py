"""Draw data/vision anew: ``python scripts/draw_vision_sample.py``. The same pictures and rows every time."""

from __future__ import annotations

import json
import random
from pathlib import Path

from pictures import COLOURS, PLACES, SHAPES, Scene, draw

FOLDER = Path(__file__).parents[1] / "data" / "vision"
_COLOUR_NAMES = {"red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色", "purple": "紫色", "black": "黑色"}
_SHAPE_NAMES = {"circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "五角星"}
_PLACE_NAMES = {"top left": "左上角", "top right": "右上角", "bottom left": "左下角", "bottom right": "右下角"}
_COUNT_NAMES = {1: "一个", 2: "两个", 3: "三个", 4: "四个"}
_TRAINING_PICTURES_EACH = 10  # of every colour and shape


def named(scene: Scene) -> dict[str, str]:
    """Ask what a picture shows."""
    return {"text": "图里是什么？", "target": f"{_COLOUR_NAMES[scene.colour]}的{_SHAPE_NAMES[scene.shape]}。"}


def counted(scene: Scene) -> dict[str, str]:
    """Ask how many there are."""
    return {"text": "图里有几个图形？", "target": f"{_COUNT_NAMES[scene.count]}。"}


def placed(scene: Scene) -> dict[str, str]:
    """Ask where it is."""
    return {"text": "图形在哪里？", "target": f"{_PLACE_NAMES[str(scene.place)]}。"}


def write_rows(name: str, scenes: list[tuple[Scene, dict[str, str]]], random_source: random.Random) -> None:
    """Draw the pictures of a file of rows, and write it."""
    rows = []
    for number, (scene, row) in enumerate(scenes):
        file = FOLDER / "images" / f"{name}-{number:03d}.png"
        draw(scene, random_source).save(file, optimize=True)
        rows.append({**row, "image": str(file.relative_to(FOLDER))})
    text = json.dumps(rows, ensure_ascii=False, indent=1)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Write both files of rows and all pictures."""
    random_source = random.Random(7)
    (FOLDER / "images").mkdir(parents=True, exist_ok=True)
    kinds = [Scene(shape, colour) for shape in SHAPES for colour in COLOURS]
    train = [(scene, named(scene)) for scene in kinds * _TRAINING_PICTURES_EACH]
    validation = [(scene, named(scene)) for scene in kinds]
    for part, times in ((train, 6), (validation, 1)):
        for number in [1, 2, 3, 4] * times:
            kind = random_source.choice(kinds)
            part.append((scene := Scene(kind.shape, kind.colour, count=number), counted(scene)))
        for place in PLACES * times:
            kind = random_source.choice(kinds)
            part.append((scene := Scene(kind.shape, kind.colour, place=place), placed(scene)))
    random_source.shuffle(train)
    write_rows("train", train, random_source)
    write_rows("validation", validation, random_source)


if __name__ == "__main__":
    main()
