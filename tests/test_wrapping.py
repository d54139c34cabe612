"""Lines of a terminal's width, counted in cells."""

from rich.cells import cell_len

from lorakit.language.wrapping import wrapped


def test_words_stay_whole_and_chinese_breaks_between_letters():
    assert wrapped("one two three", 8) == ["one two", "three"]
    assert wrapped("一二三四五", 4) == ["一二", "三四", "五"]
    assert wrapped("用 lorakit 训练", 10) == ["用 lorakit", "训练"]


def test_no_line_begins_with_a_full_stop_or_ends_with_an_opening_bracket():
    assert wrapped("一二三。四", 6) == ["一二", "三。四"]
    assert wrapped("一二（三）四", 6) == ["一二", "（三）", "四"]


def test_no_letter_is_lost_whatever_the_width():
    text = "训练数据：JSON、CSV 或 Parquet（文件夹也可以）。(default: data/train.json) “引号”"
    for cells in range(2, 90):
        lines = wrapped(text, cells)
        assert "".join("".join(lines).split()) == "".join(text.split())
        assert all(cell_len(line) <= max(cells, 17) for line in lines)


def test_a_word_longer_than_a_line_has_one_of_its_own():
    assert wrapped("a https://example.org/long b", 10) == ["a", "https://example.org/long", "b"]
    assert wrapped("", 10) == [""]
