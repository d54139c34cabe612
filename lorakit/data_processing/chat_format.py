"""From conversation to text and token ids: one mechanism for training and for asking.

The prompt contract: the ids fed to the model for a question are exactly the masked prefix of the training row of
that question. It holds by construction. Both sides render with the tokenizer's own chat template and encode piece by
piece with `ChatFormat.turns`: a prompt, its answer, the text between, the next answer. No token ever spans the border
between a prompt and its answer, because at inference no token can.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorakit.data_processing.bounded import LimitError, apply_chat_template
from lorakit.data_processing.example import Message, ToolCall
from lorakit.data_processing.images import IMAGE_MARK, ImageError, ImageFormat, expand_pictures
from lorakit.engine import IGNORED_LABEL, Picture
from lorakit.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For models without a chat template (GPT-2, OPT), written as one, so that everything else is the same.
PLAIN_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}{{ message.content + '\n\n' }}"
    "{%- elif message.role == 'user' %}{{ '### Question:\n' + message.content + '\n\n' }}"
    "{%- else %}{{ '### Answer:\n' + message.content + eos_token + '\n\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '### Answer:\n' }}{%- endif %}"
)

_PROBE = "lorakitprobe"


class TemplateError(DataError):
    """The chat template cannot render this conversation in a way that training can be trusted."""


@dataclass(frozen=True)
class Turn:
    """One answer and all that stands before it.

    Attributes:
        prompt: The text before the answer, in the pieces in which it is encoded.
        answer: The answer as the template writes it, end-of-turn token included.
        is_trained: Whether the answer carries loss.
    """

    prompt: tuple[str, ...]
    answer: str
    is_trained: bool = True


class ChatFormat:
    """How one tokenizer writes conversations.

    Args:
        tokenizer: Of the base model. Without a chat template it is given `PLAIN_TEMPLATE`.
        images: How the model takes pictures; None where it takes none.

    Raises:
        ModelError: The tokenizer has no token that could end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, images: ImageFormat | None = None) -> None:
        self.tokenizer = tokenizer
        self.images = images
        if tokenizer.eos_token_id is None:
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
        self.end_of_turn_id, self._appended_end = self._find_end_of_turn()

    @property
    def template_hash(self) -> str:
        """SHA-256 of the chat template, to notice when training and inference differ."""
        return hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()

    @property
    def end_of_turn(self) -> str:
        """The token that ends an answer, as text."""
        return str(self.tokenizer.convert_ids_to_tokens(self.end_of_turn_id))

    def rendering(self) -> str:
        """Return a short conversation as the template writes it, up to where a second answer would begin."""
        conversation = [Message("user", "Q1"), Message("assistant", "A1"), Message("user", "Q2")]
        try:
            return self._render(conversation, answering=True, thinking=False)
        except TemplateError:  # one that takes a single question only
            return self._render(conversation[:1], answering=True, thinking=False)

    def control_token_in(self, text: str) -> str | None:
        """Return a control token that the text spells out, which would end or open a turn inside it."""
        return next((token for token in self._control_tokens if token in text), None)

    def turns(self, messages: Sequence[Message]) -> Iterator[Turn]:
        """Yield every answer of a conversation with its prompt, in order.

        A prompt continues the pieces of the turn before it, unless the template rewrites history (Qwen3 removes
        the reasoning of earlier turns): then it is a single piece, at inference as in training.

        Raises:
            TemplateError: The template fails, or does not write the answer right after its generation prompt.
        """
        pieces: tuple[str, ...] = ()
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            thinking = message.reasons
            pieces = self._continued(pieces, messages[:index], thinking)
            prompt = "".join(pieces)
            written = self._render(messages[: index + 1], answering=False, thinking=thinking)
            if not written.startswith(prompt):
                raise TemplateError(
                    "the chat template writes something else before a finished answer than before a new one "
                    f"(which begins after {prompt[-20:]!r})",
                    "use another version of the model, such as its instruct version",
                )
            answer = written[len(prompt) :] + self._appended_end
            if message.content.rpartition("</think>")[2].strip() not in answer:
                raise TemplateError("the chat template loses the text of the answer", "choose another base model")
            yield Turn(pieces, answer, message.is_trained is not False)
            pieces = (*pieces, answer)

    def prompt_ids(self, messages: Sequence[Message], thinking: bool = False) -> list[int]:
        """Encode everything the model sees before it answers.

        Args:
            messages: A conversation that ends with a question.
            thinking: Whether a reasoning model should think first.
        """
        pieces: tuple[str, ...] = ()
        for turn in self.turns(messages):
            pieces = (*turn.prompt, turn.answer)
        ids = [token for piece in self._continued(pieces, messages, thinking) for token in self.encode(piece)]
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
            raise ImageError("has a picture, but this model takes text only")
        return tuple(self.images.measure(path) for path in paths) if self.images is not None else ()

    def expanded(
        self, input_ids: list[int], labels: list[int], pictures: Sequence[Picture]
    ) -> tuple[list[int], list[int], tuple[int, ...]]:
        """Give each picture as many tokens as it takes; see `expand_pictures`."""
        if self.images is None:
            return input_ids, labels, ()
        return expand_pictures(input_ids, labels, pictures, self.images.token_id, IGNORED_LABEL)

    def encode(self, piece: str) -> list[int]:
        """Encode a rendered piece; the template has already written every special token."""
        return list(self.tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"])

    def _continued(self, pieces: tuple[str, ...], messages: Sequence[Message], thinking: bool) -> tuple[str, ...]:
        before = "".join(pieces)
        prompt = self._render(messages, answering=True, thinking=thinking)
        return (*pieces, prompt[len(before) :]) if pieces and prompt.startswith(before) else (prompt,)

    def _render(self, messages: Sequence[Message], answering: bool, thinking: bool) -> str:
        try:
            return apply_chat_template(
                self.tokenizer,
                [_as_templates_expect(message) for message in messages if message.role != "tools"],
                tools=next((json.loads(message.content) for message in messages if message.role == "tools"), None),
                add_generation_prompt=answering,
                enable_thinking=thinking,
            )
        except LimitError:
            raise
        except Exception as error:  # templates raise what they like, jinja2.TemplateError among others
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TemplateError(f"the chat template refuses this conversation: {reason}") from error

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
            written = self._render(conversation, answering=False, thinking=False)
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


def _as_templates_expect(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": _parts(message)}
    if message.reasoning is not None:
        written["content"] = f"<think>\n{message.reasoning.strip()}\n</think>\n\n{message.content}"
    if message.tool_calls:
        written["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.name is not None:
        written["name"] = message.name
    if message.call_id is not None:
        written["tool_call_id"] = message.call_id
    return written


def _call(call: ToolCall) -> dict[str, Any]:
    """Write a call with its arguments as an object, which is what templates are made for."""
    function = {"name": call.name, "arguments": json.loads(call.arguments)}
    written: dict[str, Any] = {"type": "function", "function": function}
    return written if call.call_id is None else {"id": call.call_id, **written}


def _parts(message: Message) -> str | list[dict[str, str]]:
    """Write a message's content: text, or parts of text and pictures."""
    if not message.images:
        return message.content
    parts: list[dict[str, str]] = []
    for number, text in enumerate(message.content.split(IMAGE_MARK, len(message.images))):
        if number:
            parts.append({"type": "image"})
        if text:
            parts.append({"type": "text", "text": text})
    return parts
