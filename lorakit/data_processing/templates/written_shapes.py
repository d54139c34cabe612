"""Conversations of one shape are written alike: the template is run once for each shape, and contents are put in.

That is exact, not a guess: in the first run the contents note whatever the template asks of them (does it hold
``</think>``? does stripping change it?). Contents of which the same is true are written the same way; others, and all
that a template asks of more than one content or in a way that is not noted, go through the template each time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, SupportsIndex

from lorakit.data_processing.templates.bounded import fault_of_template, within_limits

_MOST_SHAPES = 100
_MOST_TURNS = 12

# What may be noted: by name, a function of the content and the template's own arguments.
_QUESTIONS: dict[str, Callable[..., bool]] = {
    "in": lambda content, part: part in content,
    "equals": lambda content, other: content == other,
    "startswith": str.startswith,
    "endswith": str.endswith,
    "strip": lambda content, *characters: content.strip(*characters) == content,
    "lstrip": lambda content, *characters: content.lstrip(*characters) == content,
    "rstrip": lambda content, *characters: content.rstrip(*characters) == content,
}
_HARMLESS_FILTERS = frozenset({"trim", "default", "d", "length", "count", "list", "selectattr", "rejectattr", "last"})
_PASSED_ON = ("join", "format", "format_map")  # methods of a template's own texts that take contents unnoticed
_MARK = re.compile(r"(lorakitcontent\d\dx)")


class NotCachedError(Exception):
    """The template does something with a content that cannot be noted."""


@dataclass
class Notes:
    """What a template has asked of a content, and was answered."""

    asked: list[tuple[str, tuple[Any, ...], bool]] = field(default_factory=list)

    def hold_for(self, content: str) -> bool:
        """Tell whether all answers are the same for another content."""
        return all(_QUESTIONS[name](content, *given) == answer for name, given, answer in self.asked)


class _Joined(str):
    """Text with a content in it: it may be written, and nothing may be asked of it."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise NotCachedError

    def __str__(self) -> str:  # what is written stays what it is
        return self

    def __add__(self, other: str) -> str:
        return _Joined(str.__add__(self, other))

    def __radd__(self, other: str) -> str:
        return _Joined(str.__add__(other, self))

    def __bool__(self) -> bool:
        return True

    __contains__ = __eq__ = __ne__ = __len__ = __iter__ = __getitem__ = __format__ = __mod__ = __mul__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __rmod__ = __rmul__ = __repr__ = __hash__ = _refuse


for _name in (name for name in dir(str) if not name.startswith("__")):
    setattr(_Joined, _name, _Joined._refuse)


class _Content(_Joined):
    """A content that notes what is asked of it."""

    notes: Notes

    def _asked(self, name: str, *given: Any) -> bool:
        if any(isinstance(one, _Joined) for one in given):
            raise NotCachedError
        answer = _QUESTIONS[name](str.__str__(self), *given)
        self.notes.asked.append((name, given, answer))
        return answer

    def _unchanged(self, name: str, *given: Any) -> str:
        if not self._asked(name, *given):
            raise NotCachedError
        return self

    def __contains__(self, part: object) -> bool:
        return self._asked("in", part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self._asked("equals", other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = _Joined.__hash__

    def startswith(self, *given: Any) -> bool:
        return self._asked("startswith", *given)

    def endswith(self, *given: Any) -> bool:
        return self._asked("endswith", *given)

    def strip(self, *given: Any) -> str:
        return self._unchanged("strip", *given)

    def lstrip(self, *given: Any) -> str:
        return self._unchanged("lstrip", *given)

    def rstrip(self, *given: Any) -> str:
        return self._unchanged("rstrip", *given)

    def split(self, separator: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        if separator is None or self._asked("in", separator):
            raise NotCachedError
        return [self]

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        if self._asked("in", old):
            raise NotCachedError
        return self


_Messages = Sequence[tuple[str, str]]  # role and content of each
Pieces = tuple[str | int, ...]


@dataclass(frozen=True)
class WrittenShape:
    """How conversations of some roles are written: texts, and the places of contents."""

    notes: tuple[Notes, ...]
    prompt: Pieces
    written: Pieces

    def filled(self, contents: Sequence[str]) -> tuple[str, str] | None:
        """Write a conversation; None where it is not of this shape."""
        if not all(notes.hold_for(content) for notes, content in zip(self.notes, contents, strict=True)):
            return None
        return filled(self.prompt, contents), filled(self.written, contents)


class WrittenShapes:
    """What a chat template makes of plain conversations, learnt once for each sequence of roles.

    Args:
        template: Its text.
        as_expected: From content to what the template takes for it.
        render: Writes a conversation by the template itself: messages, and whether an answer follows.
        settings: What else the template is given.
    """

    def __init__(
        self,
        template: str,
        as_expected: Callable[[str], Any],
        render: Callable[[_Messages, bool], str],
        settings: dict[str, Any],
    ) -> None:
        self._as_expected = as_expected
        self._render = render
        self._settings = settings
        self._template = _noting_template(template)
        self._shapes: dict[tuple[str, ...], WrittenShape | None] = {}

    def write(self, messages: _Messages) -> tuple[str, str] | None:
        """Write a conversation that ends with an answer.

        Returns:
            The prompt for the answer, and the whole; None where the template must do it.
        """
        shape = self.shape_of([role for role, _ in messages])
        return None if shape is None else shape.filled([content for _, content in messages])

    def shape_of(self, roles: Sequence[str]) -> WrittenShape | None:
        """Return how conversations of some roles are written; None where that is not known."""
        key = tuple(roles)
        if key not in self._shapes:
            if self._template is None or len(roles) > _MOST_TURNS or len(self._shapes) >= _MOST_SHAPES:
                return None
            self._shapes[key] = self._learnt(roles)
        return self._shapes[key]

    def _learnt(self, roles: Sequence[str]) -> WrittenShape | None:
        contents = [_Content(f"lorakitcontent{number:02d}x") for number in range(len(roles))]
        for content in contents:
            content.notes = Notes()
        messages = list(zip(roles, contents, strict=True))
        plain = [(role, str.__str__(content)) for role, content in messages]
        try:
            prompt, written = self._noted(messages[:-1], True), self._noted(messages, False)
            if prompt != self._render(plain[:-1], True) or written != self._render(plain, False):
                return None
        except Exception:  # what cannot be noted, and what the template refuses: it will say so itself
            return None
        notes = tuple(Notes(list(dict.fromkeys(content.notes.asked))) for content in contents)
        return WrittenShape(notes, _pieces(prompt), _pieces(written))

    def _noted(self, messages: _Messages, answering: bool) -> str:
        assert self._template is not None
        turns = [{"role": role, "content": self._as_expected(content)} for role, content in messages]
        template, settings = self._template, self._settings
        text = within_limits(lambda: template.render(messages=turns, add_generation_prompt=answering, **settings))
        return str.__str__(text)


def filled(pieces: Pieces, contents: Sequence[str]) -> str:
    """Put contents into their places."""
    return "".join([piece if isinstance(piece, str) else contents[piece] for piece in pieces])


def _pieces(text: str) -> Pieces:
    parts = _MARK.split(text)
    return tuple(int(part[-3:-1]) if place % 2 else part for place, part in enumerate(parts))


def _noting_template(text: str) -> Any:
    """Compile a template that hands contents on as they are; None where that cannot be known."""
    from jinja2 import nodes
    from transformers.utils import chat_template_utils

    compile_anew = getattr(chat_template_utils, "_cached_compile_jinja_template", None)
    if compile_anew is None or fault_of_template(text) is not None:
        return None
    template = compile_anew(text)
    environment = template.environment
    if any(node.attr in _PASSED_ON for node in environment.parse(text).find_all(nodes.Getattr)):
        return None
    environment.concat = _concatenated
    template.root_render_func.__globals__["str_join"] = lambda parts: _concatenated(
        part if isinstance(part, str) else str(part) for part in parts
    )
    for name, own in list(environment.filters.items()):
        if name not in _HARMLESS_FILTERS:
            environment.filters[name] = _only_for_plain(own)
    return template


def _concatenated(parts: Iterable[str]) -> str:
    listed = [part for part in parts if part]
    if len(listed) == 1:
        return listed[0]
    text = "".join([str.__str__(part) for part in listed])
    return _Joined(text) if any(isinstance(part, _Joined) for part in listed) else text


def _only_for_plain(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)  # with the marks by which jinja tells what a filter is given
    def checked(*given: Any, **named: Any) -> Any:
        if any(isinstance(value, str | dict | list | tuple) and type(value) is not str for value in given):
            raise NotCachedError
        return own(*given, **named)

    return checked
