"""Generating answers: in batches for evaluation, as a stream for a reader."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from lorakit.data_processing import Message
from lorakit.engine import NotCoveredError, base_model, grids, picture_inputs, pieces_of
from lorakit.errors import SettingsError
from lorakit.inference.assistant import Assistant, pad_left
from lorakit.inference.decoding import Writing, no_numbers, write_answers
from lorakit.inference.sampling import RowSampling, SamplingParams
from lorakit.inference.streamer import TokenStreamer
from lorakit.inference.text.thoughts import read_thought

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_PADDED = 2  # times its own length
_ALWAYS_PADDED = 128  # tokens that cost less than a batch of their own


def answer_batch(
    assistant: Assistant,
    conversations: Sequence[Sequence[Message]],
    params: SamplingParams,
    seeds: Sequence[int] | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
    at_once: int | None = None,
) -> list[str]:
    """Answer several conversations at once.

    Args:
        assistant: Who answers.
        conversations: Each ends with a question; similar lengths waste least.
        params: How.
        seeds: One for each conversation, so that what is sampled for it does not depend on its company; None draws
            from this process's random numbers.
        prompts: The conversations in token ids, where they are not to be encoded whole.
        at_once: The most of them that the engine's decoder answers at a time; None for all.

    Returns:
        The answers in the order of the conversations, uncleaned, without the token that ends them. Where tools may
        be called, other control tokens stay: some families write their calls with them. Thoughts stand between
        ``<think>`` and ``</think>``, however the family writes them.

    Raises:
        SettingsError: A question leaves the model no room for an answer.
    """
    answers = answer_ids(assistant, conversations, params, seeds, prompts, at_once)
    return [
        answer_text(assistant, ids, assistant.tools_of(messages) is not None)
        for ids, messages in zip(answers, conversations, strict=True)
    ]


def answer_text(assistant: Assistant, ids: Sequence[int], has_tools: bool) -> str:
    """Write an answer as `answer_batch` does.

    Args:
        assistant: Who has given it.
        ids: Its tokens.
        has_tools: Whether tools could be called.
    """
    stop = set(assistant.stop_ids)
    hidden = stop if has_tools else assistant.chat_format.hidden_ids | stop
    pieces = read_thought(assistant.thought_marks, [token for token in ids if token not in stop])
    texts: list[str] = []
    for is_tag, together in groupby(pieces, lambda piece: isinstance(piece, str)):
        shown = [piece for piece in together if is_tag or piece not in hidden]
        texts += shown if is_tag else [_decode(assistant.bundle.tokenizer, shown)]  # type: ignore[arg-type]
    return "".join(texts).strip()


def answer_ids(
    assistant: Assistant,
    conversations: Sequence[Sequence[Message]],
    params: SamplingParams,
    seeds: Sequence[int] | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
    at_once: int | None = None,
) -> list[tuple[int, ...]]:
    """Answer several conversations at once, in token ids.

    Returns:
        As `answer_batch`, but with the token that ends an answer, where it came to one.
    """
    if prompts is None:
        prompts = [assistant.prompt_ids(messages) for messages in conversations]
    if (written := _written(assistant, conversations, prompts, params, at_once, seeds)) is not None:
        return [tuple(ids) for ids in written]
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    for places in _answered_together(assistant, prompts, params.max_new_tokens):
        own = [prompts[place] for place in places]
        generated = _generate(  # [own, longest prompt + new tokens]
            assistant,
            [conversations[place] for place in places],
            own,
            params,
            seeds=[seeds[place] for place in places] if seeds is not None else None,
        )
        for place, ids in zip(places, generated[:, max(map(len, own)) :].tolist(), strict=True):
            answers[place] = _until_stop(ids, assistant.stop_ids)
    return answers


def _answered_together(
    assistant: Assistant, prompts: Sequence[Sequence[int]], most_new_tokens: int
) -> Iterator[list[int]]:
    """Group prompts so that none is cut short by a longer neighbour, and none is padded to several times its length.

    Those that would be answered otherwise beside others are left by themselves: see `Pieces`.
    """
    pieces = pieces_of(base_model(assistant.bundle.model))
    most = sys.maxsize if pieces.most_positions is None else pieces.most_positions
    if not pieces.together or max(map(len, prompts)) + most_new_tokens > most:
        yield from ([place] for place in range(len(prompts)))
        return
    groups: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(min(most_new_tokens, _room(assistant, [prompt])), []).append(place)
    for group in groups.values():
        alike: list[int] = []
        for place in sorted(group, key=lambda place: len(prompts[place])):
            if alike and len(prompts[place]) > _MOST_PADDED * len(prompts[alike[0]]) + _ALWAYS_PADDED:
                yield alike
                alike = []
            alike.append(place)
        yield alike


def stream_answer(
    assistant: Assistant,
    messages: Sequence[Message],
    params: SamplingParams,
    show: Callable[[str], None],
    clean_repetition: bool = True,
) -> str:
    """Answer one question, handing out every piece of text as soon as it is certain.

    Args:
        assistant: Who answers.
        messages: A conversation that ends with a question.
        params: How.
        show: Called with pieces of the answer.
        clean_repetition: See the setting.

    Returns:
        The answer, as it was shown.
    """
    pieces: list[str] = []

    def shown(piece: str) -> None:
        pieces.append(piece)
        show(piece)

    # Calls are no loops, though they may look alike; some families write them with control tokens.
    has_tools = assistant.tools_of(messages) is not None
    is_cleaned = clean_repetition and not has_tools
    streamer = TokenStreamer(assistant, is_cleaned=is_cleaned, has_tools=has_tools, show=shown)
    prompts = [assistant.prompt_ids(messages)]
    if _written(assistant, [messages], prompts, params, see=streamer.see) is None:
        _generate(assistant, [messages], prompts, params, streamer)
    streamer.close()
    return "".join(pieces)


def _written(
    assistant: Assistant,
    conversations: Sequence[Sequence[Message]],
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    at_once: int | None = None,
    seeds: Sequence[int] | None = None,
    see: Callable[[int], bool] = lambda token: False,
) -> list[list[int]] | None:
    """Answer by the engine's decoder; None where it does not serve."""
    decoder = assistant.decoding.decoder
    has_pictures = any(message.images for messages in conversations for message in messages)
    if decoder is None or has_pictures or assistant.bundle.model.training:
        return None
    rooms = [min(params.max_new_tokens, _room(assistant, [prompt])) for prompt in prompts]
    try:
        return write_answers(
            decoder, prompts, Writing(rooms, assistant.stop_ids, params, at_once or len(prompts), seeds), see
        )
    except NotCoveredError:
        return None


def _generate(
    assistant: Assistant,
    conversations: Sequence[Sequence[Message]],
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    streamer: TokenStreamer | None = None,
    seeds: Sequence[int] | None = None,
) -> torch.Tensor:
    model = assistant.bundle.model
    pad_id = assistant.bundle.tokenizer.pad_token_id
    sampling = []
    if seeds is not None and params.is_sampled:
        sampling = [RowSampling(seeds, params.temperature, params.top_p)]
        params = replace(params, temperature=0.0)  # the noise does it
    settings = _generation_config(assistant, params, assistant.stop_ids[0] if pad_id is None else pad_id)
    settings.max_new_tokens = min(params.max_new_tokens, _room(assistant, prompts))
    ids, mask = pad_left(prompts, settings.pad_token_id)  # type: ignore[arg-type]
    device = assistant.bundle.device
    with torch.inference_mode(), _sound_scores():
        return model.generate(  # type: ignore[no-any-return]  # [prompts, longest prompt + new tokens]
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=settings,
            streamer=streamer,
            logits_processor=LogitsProcessorList([_numbers, *sampling]),
            stopping_criteria=StoppingCriteriaList([streamer] if streamer else []),
            **_picture_inputs(assistant, conversations, ids.to(device)),
        )


def _numbers(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    if scores.isnan().any():
        raise no_numbers()
    return scores


@contextmanager
def _sound_scores() -> Iterator[None]:
    """Say in a sentence that no word can be drawn, which torch says of probabilities."""
    try:
        yield
    except RuntimeError as error:
        if "probability tensor contains" not in str(error):
            raise
        raise SettingsError(
            "the scores of the next word are not finite numbers, so none can be drawn",
            "give the adapters smaller weights, or set torch_dtype: float32",
        ) from error


def _picture_inputs(
    assistant: Assistant, conversations: Sequence[Sequence[Message]], ids: torch.Tensor
) -> dict[str, Any]:
    """Return what ``generate`` needs of the pictures in these conversations, in their order."""
    images = assistant.chat_format.images
    pictures = [picture for messages in conversations for picture in assistant.chat_format.pictures(messages)]
    if images is None or not pictures:
        return {}
    kinds = (ids == images.token_id).int()  # [prompts, longest prompt], 1 for a part of a picture
    shown = picture_inputs(base_model(assistant.bundle.model), pictures)
    return shown | {"mm_token_type_ids": kinds, "image_grid_thw": grids(pictures, ids.device)}


def _generation_config(assistant: Assistant, params: SamplingParams, pad_id: int) -> GenerationConfig:
    """State every setting, so that none of the base model's own defaults creeps in."""
    is_sampled = params.is_sampled
    return GenerationConfig(
        max_new_tokens=params.max_new_tokens,
        max_length=None,
        do_sample=is_sampled,
        temperature=params.temperature if is_sampled else 1.0,
        top_p=params.top_p if is_sampled else 1.0,
        top_k=0 if is_sampled else 50,
        repetition_penalty=params.repetition_penalty,
        no_repeat_ngram_size=0,
        num_beams=1,
        min_new_tokens=0,
        use_cache=pieces_of(base_model(assistant.bundle.model)).cached,
        eos_token_id=assistant.stop_ids,
        pad_token_id=pad_id,
        bos_token_id=assistant.bundle.tokenizer.bos_token_id,
    )


def _room(assistant: Assistant, prompts: Sequence[Sequence[int]]) -> int:
    """Count the tokens left for an answer: GPT-2 and OPT have no position beyond their last."""
    limit = getattr(assistant.bundle.model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, prompts))
    if limit is None:
        return sys.maxsize
    if longest >= limit:
        raise SettingsError(f"a question of {longest} tokens does not fit this model's {limit}", "ask a shorter one")
    return int(limit) - longest


def _until_stop(ids: list[int], stop_ids: list[int]) -> tuple[int, ...]:
    end = next((place for place, token in enumerate(ids) if token in stop_ids), len(ids))
    return tuple(ids[: end + 1])


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return str(text).strip()
