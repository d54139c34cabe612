import pytest

from lorakit.report.charts import Scale, Series, line_chart, polyline_points, short_number, thinned, ticks

POINTS = ((1, 4.0), (2, 2.0), (3, 1.0))


def test_points_stand_where_a_ruler_puts_them():
    # 360 wide with 52 left and 10 right: 298 for two steps; 220 high with 12 above and 34 below: 174 for a value of 4
    assert polyline_points(POINTS, Scale(1, 3, 4)) == "52,12 201,99 350,142.5"


def test_a_single_step_stands_in_the_middle():
    assert polyline_points([(5, 0.0)], Scale(5, 5, 1)) == "201,186"


def test_a_chart_holds_its_line_its_title_and_its_unit():
    chart = line_chart("Loss", "nats", [Series("training", POINTS)])
    assert 'points="52,12 201,99 350,142.5"' in chart
    assert "<strong>Loss</strong> (nats)" in chart
    assert "<circle" not in chart


def test_dots_tell_their_value_and_two_lines_have_a_legend():
    chart = line_chart("Loss", "", [Series("training", POINTS), Series("validation", ((2, 2.5),), has_dots=True)])
    assert "<title>step 2: 2.5</title>" in chart
    assert ">training</span>" in chart
    assert ">validation</span>" in chart


def test_values_that_are_not_finite_are_left_out():
    points = ((1, 4.0), (2, float("nan")), (2.5, float("inf")), (3, 1.0))
    assert 'points="52,12 350,142.5"' in line_chart("Gradient norm", "", [Series("", points)])


def test_there_is_no_chart_without_points():
    assert line_chart("Loss", "", [Series("training", ()), Series("validation", ((1, float("inf")),))]) == ""


@pytest.mark.parametrize(
    ("highest", "expected"),
    [(4.0, [0, 1, 2, 3, 4]), (0.002, [0, 0.0005, 0.001, 0.0015, 0.002]), (7, [0, 2, 4, 6, 8]), (0, [0, 1])],
)
def test_ticks_are_round_numbers_that_reach_the_highest(highest, expected):
    assert ticks(highest) == pytest.approx(expected)


@pytest.mark.parametrize(("value", "text"), [(0.0005, "0.0005"), (20000, "20k"), (2.5e6, "2.5M"), (1500, "1500")])
def test_labels_are_short(value, text):
    assert short_number(value) == text


def test_thinning_keeps_peaks_and_order():
    points = [(step, 9.0 if step == 77 else 1.0 + step % 2) for step in range(100)]
    kept = thinned(points, most=20)
    assert len(kept) <= 20
    assert (77, 9.0) in kept
    assert kept == sorted(kept)
    assert thinned(points[:20], most=20) == points[:20]
