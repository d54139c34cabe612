"""No file is read in a wrong encoding: it is read right, or the run stops and asks."""

import pytest

from lorakit.config import Config
from lorakit.data_processing.files.encodings import decode
from lorakit.errors import DataError

TEXTS = {
    "German": (
        "Wann wurde die Firma gegründet?,Die Firma wurde 1998 in München gegründet und gehört zur Gruppe.\n"
        "Wie groß ist sie?,Über 300 Beschäftigte arbeiten für sie.\n",
        ("cp1252", "latin-1", "iso8859_15", "mac_roman", "cp850"),
    ),
    "one German word": ("Wann?,1998 gegründet.\n", ("cp1252", "latin-1")),
    "French": ("Où êtes-vous situés ?,Nous sommes situés à Paris, près de l'opéra. Désolé.\n", ("cp1252", "latin-1")),
    "simplified Chinese": (
        "你们几点开门？,周一到周五早上九点。\n如何保持良好的睡眠质量？,每天在固定的时间上床和起床。\n",
        ("gb18030", "gbk", "gb2312"),
    ),
    "traditional Chinese": (
        "你們幾點開門？,週一到週五早上九點。\n如何保持良好的睡眠品質？,每天在固定的時間上床和起床。\n",
        ("big5", "gb18030", "cp950"),
    ),
    "two words of Chinese": ("你好？,好的。\n", ("gb18030", "big5")),
    "Japanese": (
        "何時に開きますか？,平日の朝九時です。\nよく眠るにはどうすればいいですか？,毎日同じ時間に寝てください。\n",
        ("shift_jis", "cp932", "euc_jp", "iso2022_jp"),
    ),
    "Korean": (
        "몇 시에 문을 여나요?,월요일부터 금요일까지 아침 아홉 시입니다.\n잘 자려면?,매일 같은 시간에 주무세요.\n",
        ("euc_kr", "cp949"),
    ),
    "Russian": (
        "Когда вы открываетесь?,С понедельника по пятницу в девять утра.\n",
        ("cp1251", "koi8_r", "cp866", "iso8859_5"),
    ),
    "Polish": (
        "Kiedy otwieracie?,Od poniedziałku do piątku o dziewiątej rano. Źródło: żółć.\n",
        ("cp1250", "iso8859_2"),
    ),
    "Greek": ("Πότε ανοίγετε;,Από Δευτέρα έως Παρασκευή στις εννέα το πρωί.\n", ("cp1253", "iso8859_7")),
    "Thai": ("เปิดกี่โมง,เปิดวันจันทร์ถึงศุกร์เวลาเก้าโมงเช้า\n", ("cp874",)),
}
CASES = [(language, encoding) for language, (_, encodings) in TEXTS.items() for encoding in encodings]


def outcome(content):
    try:
        return decode(content, "rows.csv")
    except DataError as error:
        return error


@pytest.mark.parametrize(("language", "encoding"), CASES)
@pytest.mark.parametrize("times", [1, 40])
def test_it_is_read_right_or_the_user_is_asked(language, encoding, times):
    text = "text,target\n" + TEXTS[language][0] * times
    content = text.encode(encoding, "ignore")
    found = outcome(content)
    if isinstance(found, DataError):
        assert "in doubt" in found.message
        assert "encoding: " in found.hint
    else:
        assert found.text == content.decode(encoding)
        assert found.note.startswith("read as ")
    assert decode(content, "rows.csv", encoding).text == content.decode(encoding)


@pytest.mark.parametrize(
    ("language", "encoding"),
    [
        ("German", "cp1252"),
        ("German", "latin-1"),
        ("simplified Chinese", "gbk"),
        ("traditional Chinese", "big5"),
        ("Japanese", "shift_jis"),
        ("Japanese", "euc_jp"),
        ("Japanese", "iso2022_jp"),
        ("Korean", "euc_kr"),
        ("Russian", "cp1251"),
    ],
)
def test_a_page_of_text_is_no_doubt(language, encoding):
    text = "text,target\n" + TEXTS[language][0] * 5
    assert decode(text.encode(encoding), "rows.csv").text == text


WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("language", ["German", "simplified Chinese", "one German word", "two words of Chinese"])
def test_unicode_is_known_by_its_mark_or_its_zeros(encoding, language):
    text = '[{"text": "' + TEXTS[language][0].replace("\n", " ") + '"}]'
    assert decode(text.encode(encoding), "rows.json").text == text


def test_a_mark_in_the_middle_of_a_file_is_no_letter():
    decoded = decode("\ufefftext,target\n".encode() + "\ufeffq,a\n".encode(), "rows.csv")
    assert decoded.text == "text,target\nq,a\n"
    assert decoded.note == "1 byte order marks in the middle are left out"


def test_damage_in_a_file_of_utf_8_is_named_and_not_read_as_something_else():
    with pytest.raises(DataError, match=r"rows.csv line 3: is UTF-8, but damaged there \(byte 0xff\)"):
        decode("text,target\nÜber,größer\nfür".encode() + b"\xff\n", "rows.csv")


def test_what_is_utf_8_stays_so_whatever_encoding_is_set_for_others():
    assert decode("größer".encode(), "rows.csv", "cp1252").text == "größer"
    with pytest.raises(DataError, match="line 2: is not shift_jis"):
        decode(b"a\n\xff\xff\n", "rows.csv", "shift_jis")


@pytest.mark.parametrize("encoding", ["no-such", "base64", "x\0"])
def test_an_encoding_that_python_does_not_know_is_refused(encoding):
    with pytest.raises(ValueError, match="must be an encoding that Python knows"):
        Config(encoding=encoding)
