from lorakit.report.markup import clipped, element, escaped, joined, section, table

SCRIPT = "<script>alert('1')</script>"
HARMLESS = "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;"


def test_text_is_escaped_once_and_markup_is_kept():
    assert escaped(SCRIPT) == HARMLESS
    assert escaped(escaped(SCRIPT)) == HARMLESS
    assert joined([element("b", "1 < 2"), " & "]) == "<b>1 &lt; 2</b> &amp; "


def test_attributes_cannot_be_left():
    assert element("p", class_='" onclick="x') == '<p class="&quot; onclick=&quot;x"></p>'


def test_cells_and_columns_are_escaped():
    drawn = table([SCRIPT], [[SCRIPT]])
    assert SCRIPT not in drawn
    assert drawn.count(HARMLESS) == 2


def test_a_section_without_content_is_left_out():
    assert section("Memory", "", "") == ""
    assert section("Memory", "1 GB") == "<section><h2>Memory</h2>1 GB</section>"


def test_a_long_text_says_how_much_is_missing():
    assert clipped("abcdef", 6) == "abcdef"
    assert clipped("abcdef", 4) == "abcd… (2 more characters)"
