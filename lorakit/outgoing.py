"""What may leave the program: no secret, nothing that a terminal would obey, and JSON that every reader takes."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TextIO

# Each begins with what its issuer has it begin with, which is kept; the rest is what nobody may see. How far is looked
# ahead is bounded: rows come from strangers, and a million beginnings that lead to nothing must not each be followed.
_SHAPES = (
    r"hf_(?=[A-Za-z0-9]{20})",  # Hugging Face
    r"(?<![A-Za-z0-9])hf_(?=[A-Za-z0-9]{10})",
    r"api_org_(?=[A-Za-z0-9]{10})",
    r"(?<![A-Za-z0-9])sk-(?=[A-Za-z0-9_-]{0,100}?[0-9A-Z]|[A-Za-z]{16})(?=[A-Za-z0-9_-]{12})",  # OpenAI, DashScope
    r"(?<![A-Za-z0-9])ms-(?=[0-9a-f]{8}-[0-9a-f]{4}-)",  # ModelScope
    r"gh[pousr]_(?=[A-Za-z0-9]{16})",
    r"github_pat_(?=[A-Za-z0-9_]{16})",
    r"glpat-(?=[A-Za-z0-9_-]{16})",
    r"xox[abprs]-(?=[A-Za-z0-9-]{10})",
    r"(?<![A-Za-z0-9+])AKIA(?=[0-9A-Z]{16})",
    r"(?<![A-Za-z0-9+])AIza(?=[A-Za-z0-9_-]{30})",
    r"(?<![A-Za-z0-9])eyJ(?=[A-Za-z0-9_-]{10,500}\.[A-Za-z0-9_-]{10,9000}\.)",  # a JSON web token
)
_SHAPED = re.compile(rf"({'|'.join(_SHAPES)})[A-Za-z0-9._-]+")
_LOGIN = re.compile(r"(?<=://)[^/\s:@\"']*:[^/\s@\"']+(?=@)")  # https://name:password@host
_NAMES_ABOVE_HIDDEN = (
    r"(?:[a-z0-9]+_)*(?:(?:hub|hf|auth|access|bearer|refresh|session)_?token|"
    r"api_?key|secret_?key|access_?key|private_?key|client_?secret|password|passwd)"
)
_NAMED = re.compile(
    rf"\b({_NAMES_ABOVE_HIDDEN})(['\"]?\s*[:=]\s*['\"]?)(?!\S{{0,40}}\.\.\.|None\b|null\b|true\b|false\b)[^\s'\",;}}\])]{{6,}}",
    re.I,
)
_IS_NAME = re.compile(rf"{_NAMES_ABOVE_HIDDEN}|token|secret", re.I)
_IS_VARIABLE = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|APIKEY|KEY)$")
_LEAST_CHARACTERS = 16  # of a variable's value: less could be any word
_HIDDEN = "..."

# Escape sequences set titles, make links, write to the clipboard, hide what was said; and a change of the direction of
# writing shows a text as another one. Shown is a picture of each, or its number.
_SHOWN = (
    {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"}
    | {0x7F: "\u2421"}
    | {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
    | {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
)


def is_secret_name(name: str) -> bool:
    """Tell whether what stands under a name is a secret: hub_token, api_key, password."""
    return _IS_NAME.fullmatch(name) is not None


def holds_secret(text: str) -> bool:
    """Tell whether a text holds what has the shape of an access token, or a password in an address."""
    return _SHAPED.search(text) is not None or _LOGIN.search(text) is not None


def without_secrets(text: str) -> str:
    """Hide what is a secret by its shape, by the name before it, or as the value of a variable of the environment."""
    text = _SHAPED.sub(lambda found: found[1] + _HIDDEN, text)
    text = _LOGIN.sub(_HIDDEN, text)
    text = _NAMED.sub(lambda found: found[1] + found[2] + _HIDDEN, text)
    for value in _secret_variables():
        text = text.replace(value, _HIDDEN)
    return text


def printable(text: str) -> str:
    """Show control characters instead of having a terminal obey them; tabs and line ends stay."""
    return text.replace("\r\n", "\n").translate(_SHOWN)


def for_a_screen(text: str) -> str:
    """Return a text as it may be printed."""
    return printable(without_secrets(text))


def strict_json(content: Any, **layout: Any) -> str:
    """Write JSON that every reader takes: what is no finite number becomes null, as RFC 8259 has no word for it.

    Args:
        content: Dictionaries, lists, tuples and plain values.
        layout: ``indent`` and ``sort_keys`` of `json.dumps`.
    """
    return json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, **layout)


def json_without_secrets(content: Any, **layout: Any) -> str:
    """Write such JSON with no secret in its texts.

    They are hidden before they are written: in JSON a backslash hides the beginning of a secret, and what is hidden may
    end within one.

    Args:
        content: As of `strict_json`.
        layout: As of `strict_json`.
    """
    return strict_json(_hidden(content), **layout)


def _hidden(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _hidden_under(key, value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_hidden(value) for value in content]
    return without_secrets(content) if isinstance(content, str) else content


def _hidden_under(key: str, value: Any) -> Any:
    beginning, hidden = f"{key}=", _hidden(value)
    if not isinstance(value, str) or hidden != value:
        return hidden
    return without_secrets(beginning + value).removeprefix(beginning) if without_secrets(key) == key else value


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def let_go(stream: IO[str]) -> None:
    """Write nothing any more to a standard stream, what waits to be written neither.

    Else the interpreter would complain of it once more when it ends.
    """
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):  # no file behind it
        name = "stderr" if stream is sys.stderr else "stdout"
        setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process


def open_new(file: Path, is_private: bool = False) -> TextIO:
    """Open a file to write text into, in place of whatever has that name; a link there goes, and is not followed.

    Args:
        file: Its name, which in a shared folder anybody may have taken.
        is_private: Whether only its owner may read it.

    Raises:
        OSError: It cannot be made.
    """
    file.unlink(missing_ok=True)
    only_new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(file, only_new, 0o600 if is_private else 0o666)
    return os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n")


def _secret_variables() -> Iterator[str]:
    return (
        value for name, value in os.environ.items() if len(value) >= _LEAST_CHARACTERS and _IS_VARIABLE.search(name)
    )
