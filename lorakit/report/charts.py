"""Line charts as SVG, from points to markup."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lorakit.language import translated
from lorakit.report.markup import Markup, element, joined, words

Point = tuple[float, float]

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 12, 34  # room around the plot, in the chart's own units
_MOST_POINTS = 800
_CHARACTER = 6.5  # width of a digit in the chart's lettering


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: For the legend.
        points: (step, value), in order of the steps.
        has_dots: Whether each point is drawn as one, with its value on hovering.
    """

    name: str
    points: tuple[Point, ...]
    has_dots: bool = False


def line_chart(title: str, unit: str, series: Sequence[Series]) -> Markup:
    """Draw lines over the optimizer steps, from zero upward.

    Args:
        title: Stands above the chart.
        unit: Of the values.
        series: Points that are not finite are left out, and series without points.
    """
    drawn = [Series(one.name, _finite(one.points), one.has_dots) for one in series]
    drawn = [one for one in drawn if one.points]
    if not drawn:
        return Markup()
    steps = [step for one in drawn for step, _ in one.points]
    y_ticks = ticks(max(value for one in drawn for _, value in one.points))
    scale = Scale(min(steps), max(steps), y_ticks[-1])
    shapes = [_grid(scale, y_ticks), _step_axis(scale)]
    shapes += [_line(one, number, scale) for number, one in enumerate(drawn)]
    svg = element(
        "svg",
        *shapes,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=translated(f"{translated(title)} over the optimizer steps"),
    )
    caption = element("figcaption", words("strong", title), f" ({translated(unit)})" if unit else "", _legend(drawn))
    return element("figure", caption, svg)


@dataclass(frozen=True)
class Scale:
    """From steps and values to places in the chart.

    Attributes:
        first: The step at the left edge.
        last: The step at the right edge.
        top: The value at the upper edge; zero is at the lower one.
    """

    first: float
    last: float
    top: float

    def x(self, step: float) -> float:
        """The horizontal place of a step; a single one stands in the middle."""
        share = (step - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 2)

    def y(self, value: float) -> float:
        """The vertical place of a value."""
        return round(HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM), 2)


def ticks(highest: float) -> list[float]:
    """Return round numbers from zero to the first one that is not below ``highest``."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [step * number for number in range(math.ceil(highest / step * 0.999) + 1)]


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Keep at most so many points: the lowest and the highest of each stretch, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept


def polyline_points(points: Sequence[Point], scale: Scale) -> str:
    """Return points as SVG's ``points`` attribute has them."""
    return " ".join(f"{scale.x(step):g},{scale.y(value):g}" for step, value in points)


def _finite(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(point for point in points if math.isfinite(point[1]))


def _line(series: Series, number: int, scale: Scale) -> Markup:
    points = thinned(series.points)
    line = element("polyline", points=polyline_points(points, scale), class_=f"line s{number}")
    if not series.has_dots and len(points) > 1:
        return line
    dots = (
        element(
            "circle",
            words("title", f"step {step:g}: {value:.4g}"),
            cx=f"{scale.x(step):g}",
            cy=f"{scale.y(value):g}",
            r="2.5",
            class_=f"dot s{number}",
        )
        for step, value in points
    )
    return joined([line, *dots])


def _grid(scale: Scale, y_ticks: Sequence[float]) -> Markup:
    shapes = []
    for value in y_ticks:
        place = f"{scale.y(value):g}"
        shapes.append(element("line", x1=str(LEFT), x2=str(WIDTH - RIGHT), y1=place, y2=place, class_="grid"))
        label_place = f"{scale.y(value) + 4:g}"
        shapes.append(element("text", short_number(value), x=str(LEFT - 5), y=label_place, text_anchor="end"))
    return joined(shapes)


def _step_axis(scale: Scale) -> Markup:
    shown = [int(step) for step in ticks(scale.last) if step.is_integer() and scale.first <= step <= scale.last]
    place = f"{HEIGHT - BOTTOM + 15}"
    labels = [
        element("text", str(step), x=f"{_within(scale, step):g}", y=place, text_anchor="middle") for step in shown
    ]
    name = words("text", "optimizer step", x=f"{(LEFT + WIDTH - RIGHT) / 2:g}", y=str(HEIGHT - 4), text_anchor="middle")
    return joined([*labels, name])


def _within(scale: Scale, step: float) -> float:
    """The place of a step's label, moved inwards where it would leave the chart."""
    return min(scale.x(step), WIDTH - len(str(step)) * _CHARACTER / 2)


def _legend(series: Sequence[Series]) -> Markup:
    if len(series) < 2:
        return Markup()
    return joined(words("span", one.name, class_=f"key k{number}") for number, one in enumerate(series))


def short_number(value: float) -> str:
    """Write an axis label in few characters: ``0.002``, ``1.5k``."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    if value >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.3g}" if value < 1000 else f"{value:g}"
