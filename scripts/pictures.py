"""Pictures of coloured shapes, drawn from random numbers: what the sample and the tiny model's base are made of."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIDE_PIXELS = 112
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 200, 30),
    "purple": (150, 60, 190),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "star")
PLACES = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Scene:
    """What a picture shows: so many shapes of one kind and colour; a single one may be in a corner.

    Attributes:
        shape: One of `SHAPES`.
        colour: One of `COLOURS`.
        count: How many.
        place: One of `PLACES`; None for anywhere.
    """

    shape: str
    colour: str
    count: int = 1
    place: str | None = None


def draw(scene: Scene, random_source: random.Random) -> Image.Image:
    """Draw a scene on white; sizes, places and shades vary."""
    image = Image.new("RGB", (SIDE_PIXELS, SIDE_PIXELS), "white")
    pen = ImageDraw.Draw(image)
    cells = random_source.sample(range(4), scene.count) if scene.count > 1 else [None]
    for cell in cells:
        _draw_one(pen, scene, cell, random_source)
    return image


def _draw_one(pen: ImageDraw.ImageDraw, scene: Scene, cell: int | None, random_source: random.Random) -> None:
    half = SIDE_PIXELS / 2
    corner = PLACES.index(scene.place) if scene.place is not None else cell
    is_small = corner is not None
    radius = random_source.uniform(18, 25) if is_small else random_source.uniform(28, 44)
    if corner is None:
        x, y = (random_source.uniform(radius + 2, SIDE_PIXELS - radius - 2) for _ in range(2))
    else:
        left, top = corner % 2 * half, corner // 2 * half
        x, y = (start + random_source.uniform(radius + 2, half - radius - 2) for start in (left, top))
    colour = tuple(max(0, min(255, part + random_source.randint(-15, 15))) for part in COLOURS[scene.colour])
    if scene.shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    else:
        pen.polygon(_corners(scene.shape, x, y, radius), fill=colour)


def _corners(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    points = {"square": 4, "triangle": 3, "star": 10}[shape]
    first = math.pi / 4 if shape == "square" else -math.pi / 2
    corners = []
    for number in range(points):
        distance = radius * 0.42 if shape == "star" and number % 2 else radius
        angle = first + 2 * math.pi * number / points
        corners.append((x + distance * math.cos(angle), y + distance * math.sin(angle)))
    return corners


def random_scene(random_source: random.Random) -> Scene:
    """Choose any scene."""
    count = random_source.choice((1, 1, 1, 1, 1, 1, 2, 3, 4))
    place = random_source.choice((None, None, None, *PLACES)) if count == 1 else None
    return Scene(random_source.choice(SHAPES), random_source.choice(list(COLOURS)), count, place)
