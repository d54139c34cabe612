import pytest

from lorakit.report.differences import marked_differences


@pytest.mark.parametrize(
    ("expected", "answer", "marked"),
    [
        ("早睡早起。", "早睡早起。", "早睡早起。"),
        ("每天早睡早起。", "每天早睡。", "每天早睡<del>早起</del>。"),
        ("多喝水。", "多喝热水。", "多喝<mark>热</mark>水。"),
        ("open at nine", "open at ten", "open at <del>nine</del><mark>ten</mark>"),
        ("a", "", "<del>a</del>"),
        ("", "a", "<mark>a</mark>"),
        ("abc", "xyz", "<mark>xyz</mark>"),
        ("a<b", "a<b>", "a&lt;b<mark>&gt;</mark>"),
    ],
)
def test_what_differs_is_marked(expected, answer, marked):
    assert marked_differences(expected, answer) == marked


def test_two_equal_characters_between_two_differences_are_chance():
    # "1234" + "ab" + "5678" on both sides, but "ab" stands between two differences
    assert (
        marked_differences("long beginning 12ab34 long end", "long beginning 98ab76 long end")
        == "long beginning <del>12ab34</del><mark>98ab76</mark> long end"
    )
    assert (
        marked_differences("long beginning 12abc34 long end", "long beginning 98abc76 long end")
        == "long beginning <del>12</del><mark>98</mark>abc<del>34</del><mark>76</mark> long end"
    )
