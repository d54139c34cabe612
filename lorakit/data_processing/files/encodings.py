"""From bytes to text by evidence: marks, validity, then what a detector finds; where a doubt is left, the user says."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorakit.errors import DataError

if TYPE_CHECKING:
    from charset_normalizer import CharsetMatch

_MARKS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_MARK = "\ufeff"
# Of encodings that read a file alike, the one that people know; of nested ones the widest.
_KNOWN = ("cp1252", "gb18030", "cp949", "cp932", "big5", "cp950", "cp1251", "koi8_r", "cp1250", "euc_jp", "iso8859_15")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")  # in no text of rows
_PUNCTUATION = frozenset('\n\t,;|{["')  # some of which every file of rows has
_SAMPLE_BYTES = 65_536
_LINES_OF_A_BYTE = 8  # every byte beyond ASCII is in so many lines of the sample, if it is in so many of the file
_SHOWN = 24  # characters around one beyond ASCII

# When the first finding of the detector counts: chaos and coherence are its own words, both from 0 to 1.
_MOST_CHAOS = 0.1
_LEAST_COHERENCE = 0.1
_CLEARLY_MORE_CHAOS = 0.1
_CLEARLY_LESS_COHERENCE = 0.5  # as a share


@dataclass(frozen=True)
class Decoded:
    """A file's text.

    Attributes:
        text: Without byte order marks, wherever they stand: in the middle of a file they are no letters.
        note: How it was read, where that was not certain from the start.
    """

    text: str
    note: str | None = None


def decode(content: bytes, name: str, encoding: str | None = None) -> Decoded:
    """Read bytes as text.

    Args:
        content: Of the whole file.
        name: Of the file, for messages.
        encoding: Of what is not UTF-8 and has no mark, as the user says; None to find out.

    Raises:
        DataError: The text is damaged, or the encoding is in doubt.
    """
    for mark, named in _MARKS:
        if content.startswith(mark):
            return _without_marks(_strictly(content[len(mark) :], named, name))
    if b"\0" in content and (wide := _wide(content)) is not None:
        return wide
    if b"\x1b$" not in content:  # escapes of ISO-2022, whose bytes are all ASCII
        try:
            return _without_marks(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            _refuse_damaged_utf_8(content, name, error)
    if encoding is not None:
        return _without_marks(_strictly(content, encoding, name))
    return _detected(content, name)


def _without_marks(text: str, note: str | None = None) -> Decoded:
    if _MARK not in text:
        return Decoded(text, note)
    marks = f"{text.count(_MARK)} byte order marks in the middle are left out"
    return Decoded(text.replace(_MARK, ""), f"{note}; {marks}" if note else marks)


def _strictly(content: bytes, encoding: str, name: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name} line {line}: is not {encoding} (byte 0x{content[error.start]:02x})",
            "save the file as UTF-8, or set encoding to what it is",
        ) from error


def _wide(content: bytes) -> Decoded | None:
    """Read UTF-16 or UTF-32 without a mark: zero bytes are then halves of ASCII characters."""
    zeros = content.count(0)
    for encoding in _WIDE:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        narrow = sum(0 < ord(character) < 256 for character in text)
        if (
            "\0" not in text
            and _PUNCTUATION.intersection(text)
            and narrow * (3 if "32" in encoding else 1) >= 0.9 * zeros
        ):
            return _without_marks(text, f"read as {encoding}, without a mark, {_sample(text)}")
    return None


def _refuse_damaged_utf_8(content: bytes, name: str, error: UnicodeDecodeError) -> None:
    """Name the place where a file that is plainly UTF-8 is not: read as anything else it would be nonsense."""
    text = content.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    if sum(ord(character) > 127 for character in text) - broken > 2 * broken:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name} line {line}: is UTF-8, but damaged there (byte 0x{content[error.start]:02x})",
            "mend that line, or save the file anew as UTF-8",
        ) from error


def _detected(content: bytes, name: str) -> Decoded:
    from charset_normalizer import from_bytes

    matches = [match for match in from_bytes(_sampled(content)) if match.encoding != "ascii"]
    if matches and _is_certain(matches):
        for encoding in _names(matches[0]):
            try:
                text = content.decode(encoding)
            except UnicodeDecodeError:
                continue
            if not _CONTROL.search(text):
                return _without_marks(text, f"read as {encoding}, {_sample(text)}")
    raise _doubt(content, name, matches)


def _is_certain(matches: list[CharsetMatch]) -> bool:
    best, *others = matches
    rivals = [other for other in others if str(other) != str(best)]
    if best.chaos > _MOST_CHAOS or (best.coherence < _LEAST_COHERENCE and not rivals and len(best.raw) < 64):
        return False
    return all(
        rival.chaos >= best.chaos + _CLEARLY_MORE_CHAOS
        or (best.coherence >= _LEAST_COHERENCE and rival.coherence <= _CLEARLY_LESS_COHERENCE * best.coherence)
        for rival in rivals
    )


def _names(match: CharsetMatch) -> list[str]:
    """Return the encodings that read the sample as this one does, those that people know first."""
    alike = [match.encoding, *match.could_be_from_charset]
    return [name for name in _KNOWN if name in alike] + [match.encoding]


def _sampled(content: bytes) -> bytes:
    """Return lines beyond ASCII, enough that each byte that occurs is among them."""
    seen: dict[int, int] = {}
    chosen: list[bytes] = []
    size = 0
    for line in content.split(b"\n"):
        beyond = {byte for byte in line if byte > 127}
        is_escaped = b"\x1b$" in line
        if not is_escaped and all(seen.get(byte, 0) >= _LINES_OF_A_BYTE for byte in beyond):
            continue
        seen.update({byte: seen.get(byte, 0) + 1 for byte in beyond})
        chosen.append(line)
        size += len(line)
        if size > _SAMPLE_BYTES:
            break
    return b"\n".join(chosen)


def _sample(text: str) -> str:
    """Show a few characters around the first beyond ASCII."""
    place = next((index for index, character in enumerate(text) if ord(character) > 127), 0)
    return "such as " + repr(text[max(place - _SHOWN // 2, 0) : place + _SHOWN // 2])


def _doubt(content: bytes, name: str, matches: list[CharsetMatch]) -> DataError:
    shown = list(_possible(content, matches))
    if not shown:
        return DataError(f"{name}: is not text in any known encoding", "save the file as UTF-8")
    likely = "; ".join(f"as {encoding} it has {sample.removeprefix('such as ')}" for encoding, sample in shown)
    return DataError(
        f"{name}: is not UTF-8, and its encoding is in doubt: {likely}",
        f"say which of them reads right, such as encoding: {shown[0][0]}, or save the file as UTF-8",
    )


def _possible(content: bytes, matches: list[CharsetMatch]) -> Iterator[tuple[str, str]]:
    shown: set[str] = set()
    names = [name for match in matches[:4] for name in _names(match)[:1]]
    likely = sorted({*names, "cp1252", "gb18030"}, key=lambda found: (*_KNOWN, found).index(found))
    for encoding in likely:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not _CONTROL.search(text) and (sample := _sample(text)) not in shown:
            shown.add(sample)
            yield encoding, sample
