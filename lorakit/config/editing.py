"""Settings changed in the text of a configuration, whose comments stay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

# A setting of the outermost level, its value, and the comment behind it.
_LINE = (
    r"^(?P<name>{name}[ \t]*:)(?P<value>[^\n]*?)(?P<comment>[ \t]+\#[^\n]*)?$(?P<below>(?:\n[ \t]+[^\n]*|\n- [^\n]*)*)"
)


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """Return the text of a configuration with other values; what is not there is added at its end.

    Args:
        text: In YAML.
        values: By the names of the settings.
    """
    for name, value in values.items():
        line = re.compile(_LINE.format(name=re.escape(name)), re.MULTILINE)
        if found := line.search(text):
            changed = f"{found['name']} {_written(value)}{found['comment'] or ''}"
            text = text[: found.start()] + changed + text[found.end() :]
        else:
            text = f"{text.rstrip()}\n{name}: {_written(value)}\n"
    return text


def _written(value: Any) -> str:
    """Write a value on one line."""
    if isinstance(value, float) and (abs(value) < 1e-3 or abs(value) >= 1e6) and value != 0:
        mantissa, _, exponent = (
            f"{value:.6g}".partition("e") if "e" in f"{value:.6g}" else f"{value:.5e}".partition("e")
        )
        digits = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{digits}e{int(exponent)}"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9).strip()
    return text.removesuffix("...").strip()
