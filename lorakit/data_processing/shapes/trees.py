"""Trees of messages, as OpenAssistant publishes them: questions with several answers, of which each may be asked on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.data_processing.example import Message, Role, UnusableError
from lorakit.data_processing.ledger import Fields
from lorakit.data_processing.shapes.turns import Draft, text_of

_ROLES: dict[Any, Role] = {"prompter": "user", "assistant": "assistant"}


def is_tree(value: Any) -> bool:
    """Tell the first message of a tree."""
    return isinstance(value, Mapping) and isinstance(value.get("replies"), list | tuple) and "role" in value


def read_tree(fields: Fields, name: str) -> list[Draft]:
    """Read the best path of a tree: the reply that people ranked first, and so on; the first where none is ranked."""
    shown = fields.key(name)
    message, left, drafts = fields.take(name, "turns of the tree, the replies ranked first"), 0, list[Draft]()
    while message is not None:
        role = _ROLES.get(message.get("role"))
        if role is None:
            raise UnusableError(f'"{shown}" has a message whose role is neither prompter nor assistant')
        drafts.append(Draft(Message(role, text_of(message.get("text"), shown))))
        replies = [reply for reply in message.get("replies") or () if isinstance(reply, Mapping)]
        left += max(0, len(replies) - 1)
        message = min(replies, key=_rank, default=None)
    if left:
        fields.note("(other replies of the tree)", "left out: one path of each tree is trained, that of the best ranks")
    return drafts


def _rank(reply: Mapping[str, Any]) -> float:
    rank = reply.get("rank")
    return float(rank) if isinstance(rank, int | float) else float("inf")


def refuse_lone_message(fields: Fields) -> None:
    """Name a row that is one message of a tree, the others of which stand in other rows."""
    if "message_id" in fields and "parent_id" in fields:
        raise UnusableError(
            "is one message of a tree (message_id, parent_id, role, text, as OpenAssistant has them), no question with "
            "its answer",
            'take the file of whole trees ("prompt" with "replies"), or follow parent_id and write each path as '
            '{"messages": [...]}',
        )
