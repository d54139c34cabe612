"""What a conversation must be to be trained: its order, and which of its answers carry loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from lorakit.data_processing.example import Message, UnusableError

_MOST_TURNS = 1000  # a template writes the conversation up to each answer: 3 seconds for these
# What may follow what, system messages and tools aside.
_FOLLOWS = {
    "user": {"user", "assistant"},
    "assistant": {"user", "assistant", "tool"},
    "tool": {"tool", "assistant"},
}


def with_turns_chosen(messages: Sequence[Message], chosen: Literal["all", "last", "marked"]) -> list[Message]:
    """Decide for each answer whether it carries loss.

    Args:
        messages: With what their row says of it. An answer before the first question is none: it never carries loss.
        chosen: ``all`` but those that the row leaves out, the ``last`` one alone, or those alone that are ``marked``.

    Returns:
        The messages; an answer's `is_trained` is False, or None where it is trained.

    Raises:
        UnusableError: None is left.
    """
    asked = next((place for place, message in enumerate(messages) if message.role == "user"), 0)
    answers = [place for place, message in enumerate(messages) if message.role == "assistant" and place > asked]
    decided = [
        replace(message, is_trained=False) if message.role == "assistant" and place < asked else message
        for place, message in enumerate(messages)
    ]
    for place in answers:
        said = messages[place].is_trained
        is_chosen = {
            "all": said is not False,
            "last": said is not False and place == answers[-1],
            "marked": said is True,
        }
        if (is_trained := None if is_chosen[chosen] else False) is not said:
            decided[place] = replace(messages[place], is_trained=is_trained)
    if answers and all(decided[place].is_trained is False for place in answers):
        switched = "no answer is marked as trained" if chosen == "marked" else "its answers are switched off"
        raise UnusableError(
            f"{switched} (train_turns: {chosen}; weight, loss, train or masked of a turn)",
            'mark those that are to be trained with "weight": 1, or set train_turns: all'
            if chosen == "marked"
            else 'take "weight": 0 and its kin out of the answers that are to be trained, or leave the row out',
        )
    return decided


def checked(messages: Sequence[Message], system_prompt: str | None) -> tuple[Message, ...]:
    """Return the conversation up to its last trained answer, with the system prompt where it has none.

    Raises:
        UnusableError: It does not begin with a question, or its turns are not in an order that can be asked again.
    """
    kept = list(messages)
    while kept and (kept[-1].role != "assistant" or kept[-1].is_trained is False):
        kept.pop()  # nothing after the last answer that is trained can be
    if not kept:
        raise UnusableError("has no answer", "the last turn that is trained is one of the assistant")
    if len(kept) > _MOST_TURNS:
        raise UnusableError(f"has more than {_MOST_TURNS} turns", "divide it into several rows")
    tools = [message for message in kept if message.role == "tools"]
    turns = kept[len(tools) :]
    if any(message.role == "system" for message in turns[1:]):
        raise UnusableError(
            "has a system message that is not the first", "put what it says into the first one, or into a question"
        )
    if system_prompt and turns[0].role != "system":
        turns.insert(0, Message("system", system_prompt))
    _check_order([message for message in turns if message.role != "system"])
    return (*tools, *turns)


def with_results_in_order(messages: Sequence[Message]) -> list[Message]:
    """Put the results of calls that stand side by side in the order of the calls, by the ids that name them.

    Few chat templates write the ids: in another order, each result would be that of another call.

    Raises:
        UnusableError: Of several results, one names a call that was not made, or one that has its result.
    """
    ordered: list[Message] = []
    place = 0
    while place < len(messages):
        end = place
        while end < len(messages) and messages[end].role == "tool":
            end += 1
        results = messages[place:end]
        if len(results) > 1 and ordered:
            calls = [call.call_id for call in ordered[-1].tool_calls]
            ordered += _in_order_of(calls, results)
        else:
            end = max(end, place + 1)
            ordered += messages[place:end]
        place = end
    return ordered


def _in_order_of(calls: Sequence[str | None], results: Sequence[Message]) -> list[Message]:
    named = {result.call_id: result for result in results}
    if not calls or None in named or None in calls:
        return list(results)
    if len(named) < len(results) or not named.keys() <= set(calls) or len(set(calls)) < len(calls):
        raise UnusableError(
            f"has results of the calls {', '.join(str(result.call_id) for result in results)}, where calls are "
            f"{', '.join(map(str, calls))}",
            'each call has an id of its own, and each result names one ("tool_call_id")',
        )
    return [named[call] for call in calls if call in named]


def _check_order(spoken: Sequence[Message]) -> None:
    if spoken[0].role == "tool" or all(message.role != "user" for message in spoken):
        found = "an answer" if spoken[0].role == "assistant" else "the result of a call"
        raise UnusableError(f"begins with {found}, not with a question")
    for before, now in pairwise(spoken):
        if now.role not in _FOLLOWS[before.role]:
            raise UnusableError(f"has a turn of the role {now.role} right after one of the role {before.role}")
        if now.role == "tool" and before.role == "assistant" and not before.tool_calls:
            raise UnusableError(
                "has the result of a call that no turn before it makes",
                'calls stand in "tool_calls", turns of the role function_call, or between <tool_call> and </tool_call>',
            )
        if before.tool_calls and now.role != "tool":
            raise UnusableError("has a call without a result before the next turn")
