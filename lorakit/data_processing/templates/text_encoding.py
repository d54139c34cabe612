"""From rendered text to token ids: prompts as inference encodes them, answers as what continues them."""

from __future__ import annotations

import json
import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from lorakit.data_processing.templates.words import Words, steps_of
from lorakit.data_processing.templates.written_parts import Atom
from lorakit.data_processing.templates.written_shapes import Pieces
from lorakit.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# Noncharacters, which no text should hold. The first stands inside a control token that is meant as text, so that it
# survives the template without being one; the second before the control tokens of a tokenizer to which the others
# are text.
GUARD, _ALIAS = "\ufdd0", "\ufdd1"
_MOST_COMPARISONS = 20_000_000  # of tokens with each other, which take seconds
_ANCHORS = ("\n", "a", ".", "的", "0")


class SeamError(DataError):
    """An answer cannot be told from its prompt in token ids."""


class TextEncoder:
    """How one tokenizer encodes what a chat template has written.

    Args:
        tokenizer: Whose tokens.
        control_tokens: Its special tokens with their ids.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control_tokens: dict[str, int]) -> None:
        self._tokenizer = tokenizer
        self._control_tokens = control_tokens
        longest_first = sorted(control_tokens, key=len, reverse=True)
        self._real = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._backend: Tokenizer | None = getattr(tokenizer, "_tokenizer", None)
        self._literal: tuple[Any, dict[int, int]] | None = None
        self._cut = self._cutting_tokens()
        self._words = Words(self._backend) if self._cut is not None and self._backend is not None else None

    def guarded(self, text: str, allowed: Collection[str] = ()) -> str:
        """Mark the control tokens in a text that are to stay text: all but those allowed."""
        return self._real.sub(
            lambda token: token.group() if token.group() in allowed else token.group()[0] + GUARD + token.group()[1:],
            text,
        )

    def encode(self, text: str) -> list[int]:
        """Encode a text of which the template has written every special token."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts; what many of them have in common, between special tokens, only once."""
        if self._cut is None or self._words is None:
            return [self._whole(text) for text in texts]
        segmented = [[part for part in self._cut.split(text) if part] for text in texts]
        known: dict[str, list[int]] = {token: [token_id] for token, token_id in self._control_tokens.items()}
        missing = [part for part in {part for parts in segmented for part in parts} if part not in known]
        plain = [part for part in missing if GUARD not in part]
        known.update(
            (part, array("i", ids).tolist()) for part, ids in zip(plain, self._words.encode_all(plain), strict=True)
        )
        known.update((part, self._whole(part)) for part in missing if GUARD in part)
        return [[token for part in parts for token in known[part]] for parts in segmented]

    @property
    def cuts_texts(self) -> bool:
        """Whether texts are cut at special tokens, and each part is encoded by itself."""
        return self._cut is not None

    @property
    def first_characters(self) -> frozenset[str]:
        """With which the tokens begin that no text is merged into."""
        return frozenset(token.content[0] for token in self._tokenizer.added_tokens_decoder.values())

    def encode_between(self, texts: Sequence[str]) -> list[bytes]:
        """Encode texts that stand between special tokens, as 32-bit integers; only where texts are cut at these."""
        assert self._words is not None
        return self._words.encode_all(texts)

    def atoms(self, pieces: Pieces) -> list[Atom] | None:
        """Cut pieces at the special tokens in their own texts.

        Returns:
            Special tokens, and what stands between them; None where texts are not cut, or where a token could arise of
            an own text and a content beside it.
        """
        if self._cut is None:
            return None
        atoms: list[Atom] = []
        between: list[str | int] = []
        for number, piece in enumerate(pieces):
            if not isinstance(piece, str):
                between.append(piece)
                continue
            if number + 1 < len(pieces) and self._begins_token(piece):
                return None
            for place, text in enumerate(self._cut.split(piece)):
                if place % 2:
                    atoms += [tuple(between), text] if between else [text]
                    between = []
                elif self._real.search(text):
                    return None
                elif text:
                    between.append(text)
        return [*atoms, tuple(between)] if between else atoms

    def _begins_token(self, text: str) -> bool:
        added = (token.content for token in self._tokenizer.added_tokens_decoder.values())
        return any(text.endswith(token[:length]) for token in added for length in range(1, len(token)))

    def encode_turns(self, turns: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Encode prompts, and each answer as what continues its prompt.

        Args:
            turns: Pairs of prompt and answer.

        Returns:
            For each the ids that inference feeds, and those that it is to generate: they add nothing to the text,
            such as the space that some tokenizers put before the first word.

        Raises:
            SeamError: One answer cannot be encoded so.
        """
        if self._cut is not None:
            found = self.encode_all([text for turn in turns for text in turn])
            return list(zip(found[::2], found[1::2], strict=True))
        return [(ids := self._whole(prompt), self._continuation(prompt, ids, answer)) for prompt, answer in turns]

    def _continuation(self, prompt: str, prompt_ids: list[int], answer: str) -> list[int]:
        whole = self._whole(prompt + answer)
        if whole[: len(prompt_ids)] == prompt_ids:
            return whole[len(prompt_ids) :]
        words = self._real.split(answer, 1)[0]  # up to its first control token, at which texts are cut anyway
        for anchor in _ANCHORS:  # in one token the two would join: after another character they do not
            before, both = self._whole(anchor), self._whole(anchor + answer)
            is_exact = self._decoded(self._whole(anchor + words)) == self._decoded(before) + words.replace(GUARD, "")
            if both[: len(before)] == before and is_exact:
                return both[len(before) :]
        raise SeamError("the tokenizer joins the beginning of this answer with the end of its prompt")

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def _whole(self, text: str) -> list[int]:
        if GUARD not in text:
            return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        tokenizer, ids = self._literal_tokenizer()
        text = self._real.sub(lambda token: _ALIAS + token.group(), text).replace(GUARD, "")
        found = tokenizer.encode(text, add_special_tokens=False).ids
        controls = set(self._control_tokens.values()) - {self._tokenizer.unk_token_id}
        unmarked = controls.intersection(found).difference(ids)
        if unmarked:  # of a vocabulary that has its control tokens among its words
            name = self._tokenizer.convert_ids_to_tokens(unmarked.pop())
            raise SeamError(f"spells out {name!r}, which this tokenizer cannot encode as text; remove it from the text")
        return [ids.get(token, token) for token in found]

    def _literal_tokenizer(self) -> tuple[Any, dict[int, int]]:
        """Return a tokenizer to which control tokens are text, unless the alias stands before them."""
        if self._literal is None:
            if self._backend is None:
                raise SeamError("spells out a control token, which this tokenizer cannot encode as text")
            from tokenizers import Tokenizer

            settings = json.loads(self._backend.to_str())
            settings["post_processor"] = None
            real_ids = [token["id"] for token in settings["added_tokens"]]
            for token in settings["added_tokens"]:
                if token["content"] in self._control_tokens:
                    token["content"] = _ALIAS + token["content"]
            literal = Tokenizer.from_str(json.dumps(settings))  # which numbers the tokens anew
            own_ids: list[Any] = [literal.token_to_id(token["content"]) for token in settings["added_tokens"]]
            self._literal = literal, dict(zip(own_ids, real_ids, strict=True))
        return self._literal

    def _cutting_tokens(self) -> re.Pattern[str] | None:
        """Return the special tokens at which texts may be cut before they are encoded; None where they may not.

        They may where a token stands for its bytes alone wherever it is: byte-level BPE that puts no space before
        texts. There an answer by itself is encoded as what continues any prompt, and special tokens that swallow
        white space are not cut at.
        """
        if self._backend is None or not _is_byte_level(self._backend):
            return None
        added = list(self._tokenizer.added_tokens_decoder.values())
        inner = _within_others([token.content for token in added])
        if inner is None:
            return None
        cutting = [
            token.content
            for token in added
            if token.special and not (token.lstrip or token.rstrip or token.single_word) and token.content not in inner
        ]
        longest_first = sorted(cutting, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")


def _within_others(contents: Sequence[str]) -> set[str] | None:
    """Return those of some texts that stand twice or within others; None where to find out would take too long."""
    known, lengths = set(contents), sorted(set(map(len, contents)))
    if sum(map(len, contents)) * len(lengths) > _MOST_COMPARISONS:
        return None
    found = {content for content, count in Counter(contents).items() if count > 1}
    for content in contents:
        for length in lengths[: bisect_left(lengths, len(content))]:
            pieces = (content[place : place + length] for place in range(len(content) - length + 1))
            found.update(known.intersection(pieces))
    return found


# Steps that see no further than the text between two special tokens, and begin it with nothing of their own.
_LOCAL = frozenset({"ByteLevel", "Split", "Digits", "NFC", "NFKC", "NFD", "NFKD"})


def _is_byte_level(backend: Tokenizer) -> bool:
    from tokenizers.models import BPE

    model = backend.model
    if not isinstance(model, BPE) or model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    steps = [step for part in (backend.pre_tokenizer, backend.normalizer) for step in steps_of(part)]
    are_local = all(step["type"] in _LOCAL and not step.get("add_prefix_space") for step in steps)
    return are_local and any(step["type"] == "ByteLevel" for step in steps)
