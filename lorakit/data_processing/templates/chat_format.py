"""From conversation to text and token ids: one mechanism for training and for asking.

The prompt contract: the ids fed to the model for a question are exactly the masked prefix of the training row of
that question. It holds by construction. Both sides render a prompt with the tokenizer's own chat template and encode
it whole, as every other engine does; an answer is encoded as what continues it. No token ever spans the border between
a prompt and its answer, because at inference no token can.
"""

from __future__ import annotations

import copy
import datetime
import difflib
import hashlib
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lorakit.config import Config
from lorakit.data_processing.example import Message
from lorakit.data_processing.images import ImageError, ImageFormat, expand_pictures
from lorakit.data_processing.raw import MOST_CHARACTERS
from lorakit.data_processing.reasoning import CLOSING, OPENING
from lorakit.data_processing.templates.chat_template import PLAIN_TEMPLATE, ChatTemplate, TemplateError, Turn
from lorakit.data_processing.templates.template_identity import template_examples, template_hash
from lorakit.data_processing.templates.text_encoding import TextEncoder
from lorakit.data_processing.templates.written_parts import Atom, ConversationParts, Ends, parts_of
from lorakit.engine import IGNORED_LABEL, Picture
from lorakit.errors import DataError, ModelError, SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "lorakitprobe"


class ChatFormat:
    """How one tokenizer writes conversations.

    Args:
        tokenizer: Of the base model. Without a chat template it is given `PLAIN_TEMPLATE`.
        images: How the model takes pictures; None where it takes none.
        date: For chat templates that write today's; None for the day's own.
        allowed: Control tokens that answers may hold.

    Raises:
        ModelError: The tokenizer has no token that could end an answer.
        SettingsError: A token is allowed that is no control token, or that ends answers.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        images: ImageFormat | None = None,
        date: datetime.date | None = None,
        allowed: Collection[str] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.images = images
        if tokenizer.eos_token_id is None or not tokenizer.eos_token:
            raise ModelError(
                f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token",
                "choose a model whose tokenizer has one",
            )
        self.is_plain = not tokenizer.chat_template
        if self.is_plain:
            tokenizer.chat_template = self._begin_of_sequence() + PLAIN_TEMPLATE
        self._control_tokens = {
            token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        } | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self._control_beginnings = {token[0] for token in self._control_tokens if token}
        self._encoder = TextEncoder(tokenizer, self._control_tokens)
        self._template = ChatTemplate(tokenizer, date)
        self.end_of_turn_id, self._appended_end = self._find_end_of_turn()
        self.allowed = tuple(allowed)
        self._check_allowed()

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: tuple[Any, int] | None,
        config: Config,
        first_day: str | None = None,
    ) -> ChatFormat:
        """Make the chat format that a configuration asks for.

        Args:
            tokenizer: Of the base model.
            image_processor: See `ImageFormat.of`.
            config: For what it says of pictures, date and allowed tokens.
            first_day: The date for ``template_date: auto``; None for the day's own.
        """
        chosen = {"auto": first_day, "today": None}.get(config.template_date, config.template_date)
        date = None if chosen is None else _day(chosen)
        return cls(tokenizer, ImageFormat.of(image_processor, config), date, config.allow_tokens)

    def dated(self, day: str) -> ChatFormat:
        """Return the same format with the date of another day."""
        other = copy.copy(self)
        other._template = self._template.dated(_day(day))
        return other

    def of_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
        """Return the format that the same settings give with another tokenizer."""
        return ChatFormat(tokenizer, self.images, self._template.date, self.allowed)

    def allowing(self, tokens: Collection[str]) -> ChatFormat:
        """Return the same format with other control tokens allowed in answers."""
        other = copy.copy(self)
        other.allowed = tuple(tokens)
        other._check_allowed()
        return other

    @property
    def date(self) -> str | None:
        """The date that the template writes; None where it writes none, or the day's own."""
        return self._template.date.isoformat() if self._template.date else None

    @property
    def writes_today(self) -> bool:
        """Whether the template writes another text on another day."""
        return self._template.writes_today

    @property
    def hidden_ids(self) -> frozenset[int]:
        """The control tokens that are no part of an answer's text, nor around its thought."""
        shown = {*self.allowed, OPENING, CLOSING}
        return frozenset(token_id for token, token_id in self._control_tokens.items() if token not in shown)

    @property
    def identity(self) -> str | None:
        """SHA-256 of all by which conversations become tokens; None where it is not the same tomorrow, or not known."""
        backend = getattr(self.tokenizer, "_tokenizer", None)
        if backend is None or self.writes_today:
            return None
        digest = hashlib.sha256(backend.to_str().encode())
        known = [type(self.tokenizer).__name__, self._template.text(), self.tokenizer.special_tokens_map, self.allowed]
        digest.update(repr([*known, self.images.token_id if self.images is not None else None]).encode())
        return digest.hexdigest()

    @property
    def template_hash(self) -> str:
        """SHA-256 of the chat template and the special tokens, to notice when training and inference differ."""
        return template_hash(self.tokenizer)

    @property
    def end_of_turn(self) -> str:
        """The token that ends an answer, as text."""
        return str(self.tokenizer.convert_ids_to_tokens(self.end_of_turn_id))

    def rendering(self) -> str:
        """Return a short conversation as the template writes it, up to where a second answer would begin."""
        conversation = [Message("user", "Q1"), Message("assistant", "A1"), Message("user", "Q2")]
        try:
            return self._template.render(conversation, answering=True, thinking=False)
        except TemplateError:  # one that takes a single question only
            return self._template.render(conversation[:1], answering=True, thinking=False)

    @property
    def control_ids(self) -> set[int]:
        """The ids of all control tokens."""
        return set(self._control_tokens.values())

    def tokens_before(self, ids: Sequence[int], characters: int) -> int:
        """Count the tokens that lie wholly within the first so many characters of a text."""
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high + 1) // 2
            text = self.tokenizer.decode(ids[:middle], skip_special_tokens=False, clean_up_tokenization_spaces=False)
            low, high = (middle, high) if len(str(text)) <= characters else (low, middle - 1)
        return low

    def examples(self) -> tuple[str, ...]:
        """Return more conversations as the template writes them; see `template_examples`."""
        return template_examples(self.tokenizer, self._template.text())

    def control_token_in(self, answer: str) -> str | None:
        """Return a control token that an answer spells out and that would end or open a turn inside it."""
        if not self._has_control_token(answer):
            return None
        return next((token for token in self._control_tokens if token in answer and token not in self.allowed), None)

    def turns(self, messages: Sequence[Message]) -> Iterator[Turn]:
        """Yield every answer of a conversation with its prompt, in order.

        Raises:
            TemplateError: The template fails, or does not write the answer right after its generation prompt.
        """
        guarded = self._guarded(messages)
        first = next((index for index, message in enumerate(guarded) if message.role == "user"), 0)
        for index, message in enumerate(guarded):
            if message.role == "assistant" and index > first:  # what stands before the first question answers nothing
                turn = self._template.turn(guarded[:index], message)
                yield replace(turn, answer=turn.answer + self._appended_end) if self._appended_end else turn

    @property
    def cuts_texts(self) -> bool:
        """Whether a text is encoded by itself as within another, so that parts of conversations can be."""
        return self._encoder.cuts_texts

    @property
    def odd_characters(self) -> frozenset[str]:
        """Characters by which a text may hold a tag or a token."""
        return self._encoder.first_characters | {"<"}

    def parts(self, messages: Sequence[Message]) -> ConversationParts | None:
        """Take a conversation of plain texts apart; see `parts_of`."""
        split, shape_of = self._encoder.atoms, self._template.shape_of
        return parts_of(messages, shape_of, split, Ends(self.end_of_turn, self._appended_end, self.odd_characters))

    def atom_ids(self, atom: Atom) -> bytes | None:
        """Encode what holds no contents, as 32-bit integers; None where it does."""
        if isinstance(atom, str):
            return array("i", [self._control_tokens[atom]]).tobytes()
        if any(isinstance(piece, int) for piece in atom):
            return None
        return self._encoder.encode_between(["".join(map(str, atom))])[0]

    def encode_between(self, texts: Sequence[str]) -> list[bytes]:
        """Encode texts that stand between special tokens; see `TextEncoder.encode_between`."""
        return self._encoder.encode_between(texts)

    def prompt_ids(self, messages: Sequence[Message], thinking: bool = False) -> list[int]:
        """Encode everything the model sees before it answers.

        Args:
            messages: A conversation that ends with a question.
            thinking: Whether a reasoning model should think first.

        Raises:
            DataError: It is longer than what any model reads; its tokens would take memory without bounds.
        """
        prompt = self._template.prompt(self._guarded(messages), thinking)
        if len(prompt) > MOST_CHARACTERS:
            raise DataError(
                f"a question of more than {MOST_CHARACTERS:,} characters: no model reads as much", "ask a shorter one"
            )
        ids = self.encode(prompt)
        pictures = self.pictures(messages)
        ids, _, starts = self.expanded(ids, [IGNORED_LABEL] * len(ids), pictures)
        check_all_pictures(starts, pictures)
        return ids

    def pictures(self, messages: Sequence[Message]) -> tuple[Picture, ...]:
        """Return the pictures of a conversation, in order.

        Raises:
            ImageError: One cannot be read, or the model takes none.
        """
        paths = [path for message in messages for path in message.images]
        if paths and self.images is None:
            raise ImageError(
                "has a picture, but this model takes text only", "leave it out, or choose a vision-language model"
            )
        return tuple(self.images.measure(path) for path in paths) if self.images is not None else ()

    def expanded(
        self, input_ids: list[int], labels: list[int], pictures: Sequence[Picture]
    ) -> tuple[list[int], list[int], tuple[int, ...]]:
        """Give each picture as many tokens as it takes; see `expand_pictures`."""
        if self.images is None:
            return input_ids, labels, ()
        return expand_pictures(input_ids, labels, pictures, self.images.token_id, IGNORED_LABEL)

    def encode(self, text: str) -> list[int]:
        """Encode a rendered text; the template has already written every special token."""
        return self._encoder.encode(text)

    def encode_turns(self, turns: Sequence[Turn]) -> list[tuple[list[int], list[int]]]:
        """Encode prompts and answers; see `TextEncoder.encode_turns`."""
        return self._encoder.encode_turns([(turn.prompt, turn.answer) for turn in turns])

    def _guarded(self, messages: Sequence[Message]) -> list[Message]:
        """Mark the control tokens that stay text: all of questions, and those of answers that may not hold them."""
        return [
            replace(message, content=self._encoder.guarded(message.content, allowed))
            if self._has_control_token(message.content)
            else message
            for message in messages
            for allowed in [self.allowed if message.role == "assistant" else ()]
        ]

    def _has_control_token(self, text: str) -> bool:
        may_have = any(character in text for character in self._control_beginnings)
        return may_have and any(token in text for token in self._control_tokens)

    def _check_allowed(self) -> None:
        ends = {self.end_of_turn, self.tokenizer.eos_token}
        for token in self.allowed:
            if token in ends:
                raise SettingsError(f"allow_tokens: {token} ends answers, so it cannot stand in one", "leave it out")
            if token not in self._control_tokens:
                close = difflib.get_close_matches(token, self._control_tokens, n=1, cutoff=0.6)
                remedy = f"did you mean {close[0]}?" if close else "leave it out: it needs no leave"
                raise SettingsError(f"allow_tokens: {token} is no control token of this model", remedy)

    def _begin_of_sequence(self) -> str:
        """OPT and Llama begin every text with a token of their own; GPT-2 does not."""
        begin = self.tokenizer.bos_token_id
        is_added = begin is not None and self.tokenizer("a")["input_ids"][:1] == [begin]
        return "{{- bos_token }}" if is_added else ""

    def _find_end_of_turn(self) -> tuple[int, str]:
        """Find the token that the template writes after an answer; where there is none, append end-of-sequence.

        Returns:
            The token's id and the text to append to every answer (empty if the template ends turns itself).
        """
        conversation = [Message("user", "a"), Message("assistant", _PROBE)]
        try:
            written = self._template.render(conversation, answering=False, thinking=False)
        except TemplateError as error:
            raise ModelError(
                f"{self.tokenizer.name_or_path}: {error.message}",
                "mend chat_template.jinja (or chat_template in tokenizer_config.json), or choose another base model",
            ) from error
        if _PROBE not in written:
            raise ModelError(
                f"{self.tokenizer.name_or_path}: the chat template loses the text of answers",
                "choose another base model",
            )
        after = written.rpartition(_PROBE)[2]
        special = set(self._control_tokens.values())
        for token_id in self.encode(after):
            if token_id in special:
                return token_id, ""
        return int(self.tokenizer.eos_token_id), str(self.tokenizer.eos_token)


def check_all_pictures(starts: Sequence[int], pictures: Sequence[Picture]) -> None:
    """Refuse a template that loses a picture."""
    if len(starts) != len(pictures):
        raise TemplateError("the chat template loses a picture", "use the chat template of a vision-language model")


def _day(text: str) -> datetime.date:
    """Read a day that a record keeps."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"template_date: {text!r} is no date",
            "it stands in the adapter's lorakit.json, or in run.json of the run that is resumed: correct it there",
        ) from None
