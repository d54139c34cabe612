"""A Modelfile for Ollama: which file, how conversations are written, where answers end."""

from __future__ import annotations

from collections.abc import Sequence

from lorakit.data_processing import ChatFormat
from lorakit.errors import ModelError
from lorakit.export.ollama.turn_pieces import TurnPieces, find_pieces
from lorakit.outgoing import printable

_QUOTES = '"""'
_NO_TEMPLATE = (
    "# TEMPLATE is left out: this chat template does more than Ollama's templates can say. Ollama then guesses one\n"
    "# from the chat template inside the GGUF file, which may differ from what was trained. llama.cpp's own server,\n"
    "# started with --jinja, uses the chat template itself."
)


def modelfile(
    chat_format: ChatFormat,
    gguf_name: str,
    system_prompt: str | None,
    stop_tokens: Sequence[str],
    temperature: float,
    thinking: bool = False,
) -> str:
    """Return a Modelfile with which Ollama feeds a question as lorakit does.

    Args:
        chat_format: Of the model.
        gguf_name: Of the file beside the Modelfile.
        system_prompt: Given to conversations that carry none; None for none.
        stop_tokens: At which answers end.
        temperature: Of sampling.
        thinking: Whether a reasoning model thinks before it answers.

    Raises:
        ModelError: The system prompt has three quotation marks in a row, which a Modelfile cannot hold.
    """
    template = go_template(chat_format, thinking)
    lines = [f"FROM ./{gguf_name}"]
    lines.append(_NO_TEMPLATE if template is None else f"TEMPLATE {_QUOTES}{template}{_QUOTES}")
    lines += [f"PARAMETER stop {_quoted(token)}" for token in stop_tokens]
    lines.append(f"PARAMETER temperature {temperature:g}")
    if system_prompt:
        if not _fits_quotes(system_prompt):
            raise ModelError(
                "system_prompt: has three quotation marks in a row, or one at its end, or signs that cannot be seen, "
                "which a Modelfile cannot hold",
                "take them out",
            )
        lines.append(f"SYSTEM {_QUOTES}{system_prompt}{_QUOTES}")
    return "\n".join(lines) + "\n"


def _fits_quotes(text: str) -> bool:
    """Tell whether a text between three quotation marks ends where it should, whatever commands follow in it."""
    return _QUOTES not in text and not text.endswith('"') and printable(text) == text


def _quoted(token: str) -> str:
    """Quote a token for a line of its own; its model's maker chose it, and could end the line and begin a command."""
    if not token or '"' in token or "\n" in token or "\\" in token or printable(token) != token:
        raise ModelError(
            f"the stop token {token[:80]!r} cannot stand in a Modelfile, where it would begin a command of its own",
            "choose a base model whose answers end with another token",
        )
    return f'"{token}"'


def go_template(chat_format: ChatFormat, thinking: bool = False) -> str | None:
    """Return the chat format as a template of Ollama; None where it cannot be said in one.

    Ollama gives ``.System``, all system messages as one text, and ``.Messages``, each with ``.Role`` and ``.Content``.
    Source: Ollama, template/template.go.
    """
    pieces = find_pieces(chat_format, thinking)
    if pieces is None or any("{{" in text for text in pieces.texts):
        return None
    template = "".join(
        (
            pieces.begin,
            _system(pieces),
            "{{ range .Messages }}",
            '{{ if eq .Role "user" }}' + pieces.before_user + "{{ .Content }}" + pieces.after_user,
            '{{ else if eq .Role "assistant" }}' + pieces.before_answer + "{{ .Content }}" + pieces.after_answer,
            "{{ end }}{{ end }}",
            pieces.prompt,
        )
    )
    return template if _fits_quotes(template) else None


def _system(pieces: TurnPieces) -> str:
    if pieces.system is None:
        return pieces.without_system
    before, after = pieces.system
    written = "{{ if .System }}" + before + "{{ .System }}" + after
    return written + ("{{ else }}" + pieces.without_system if pieces.without_system else "") + "{{ end }}"
