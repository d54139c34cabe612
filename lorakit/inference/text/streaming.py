"""Text that grows token by token: whole characters only, and loops held back until they are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorakit.inference.text.cleaning import clean_repetition, echo_length, is_hopeless

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HALF_CHARACTER = "\ufffd"  # how an incomplete UTF-8 sequence decodes


class IncrementalDecoder:
    """Decodes tokens one at a time without ever giving out part of a character.

    Args:
        tokenizer: Whose tokens come in.
        keeps_control: Whether special tokens are part of the text; else they are left out.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, keeps_control: bool = False) -> None:
        self._tokenizer = tokenizer
        self._keeps_control = keeps_control
        self._ids: list[int] = []
        self._context = 0  # decoding starts here: some tokenizers join words by what stands before
        self._given = 0  # ids[:given] have been given out

    def add(self, token_id: int) -> str:
        """Take one more token and return the text that has become certain."""
        self._ids.append(token_id)
        text, known = self._texts()
        if text.endswith(_HALF_CHARACTER):
            return ""
        self._context, self._given = self._given, len(self._ids)
        return text[len(known) :]

    def finish(self) -> str:
        """Return what was held back, the replacement character included where the model left half a character."""
        text, known = self._texts()
        self._given = len(self._ids)
        return text[len(known) :]

    def _texts(self) -> tuple[str, str]:
        return self._decode(self._ids[self._context :]), self._decode(self._ids[self._context : self._given])

    def _decode(self, ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(ids, skip_special_tokens=not self._keeps_control, clean_up_tokenization_spaces=False)
        )


class AnswerStream:
    """What a reader may see of a growing answer.

    The pieces given out, joined, are the cleaned answer: characters that echo what stands right before them wait until
    it is certain that they are no loop.

    Args:
        is_cleaned: False gives everything out at once, as it is.
    """

    def __init__(self, is_cleaned: bool = True) -> None:
        self._is_cleaned = is_cleaned
        self._text = ""
        self._given = ""
        self._certain = 0  # characters of the text that `_given` is made of

    def add(self, piece: str) -> str:
        """Take a piece of the answer and return what may be shown now."""
        self._text += piece
        if not self._is_cleaned:
            return piece
        return self._give(self._text[: len(self._text) - echo_length(self._text)])

    def finish(self) -> str:
        """Return the rest of the cleaned answer; uncleaned, should it contradict what was already shown."""
        if not self._is_cleaned:
            return ""
        cleaned = clean_repetition(self._text)
        return cleaned[len(self._given) :] if cleaned.startswith(self._given) else self._text[self._certain :]

    @property
    def is_hopeless(self) -> bool:
        """Whether the answer is stuck in a loop for good."""
        return self._is_cleaned and len(self._text) > len(self._given) and is_hopeless(self._text)

    def _give(self, text: str) -> str:
        cleaned = clean_repetition(text)
        if not cleaned.startswith(self._given):  # never take back what was shown
            return ""
        fresh = cleaned[len(self._given) :]
        self._given, self._certain = cleaned, len(text)
        return fresh
