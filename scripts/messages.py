"""The catalogues of messages: ``python scripts/messages.py update`` after a message has changed, then ``compile``.

Messages stay plain f-strings in the code. What an f-string can say is its template, ``{name}: holds no rows``, which is
the key of its translation; `lorakit.language` finds the template of a text that is about to be printed.
"""

from __future__ import annotations

import ast
import datetime
import io
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lorakit"
CATALOGUES = PACKAGE / "language"
LANGUAGES = ("zh",)
# What a newcomer meets; the other rooms speak English until they are listed here.
COVERED = (
    "cli/__init__.py",
    "cli/arguments.py",
    "cli/company.py",
    "cli/doctor.py",
    "cli/failures.py",
    "cli/starting.py",
    "config/loading.py",
    "evaluate/__init__.py",
    "evaluate/comparison.py",
    "evaluate/verdict.py",
    "inference/commands.py",
    "inference/session.py",
    "preview.py",
    "report/answer_sections.py",
    "report/data_sections.py",
    "report/training_sections.py",
    "report/page.py",
    "report/surroundings.py",
    "runs/folder.py",
    "train/advising.py",
    "train/learning_rate.py",
    "train/preflight.py",
    "train/progress.py",
    "train/stopping.py",
    "train/summary.py",
    "train/training.py",
    "model_config/starter.py",
    "model_config/source.py",
    "data_processing/overview.py",
    "export/exporting.py",
    "export/merging.py",
)
_FEWEST_LETTERS = 3
_NEVER = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)  # a catalogue that says when changes without a change


# What looks like a message and is none, or is a piece of one that WHOLE has.
NOT_SHOWN: frozenset[str] = frozenset(
    (
        "cd {value_1} && ollama create {value_3} -f {modelfile_5}",
        "\nCtrl-C once more leaves",
        "\nstopping: this step is finished and a checkpoint saved first (again: stop at once)",
        "  ... and {value_1} more",
        "  validation loss {loss_1}",
        " and {value_1} more",
        "%Y-%m-%d %H:%M",
        ", {after_step_1} done before",
        ", {picture_tokens_1} stand for pictures",
        ", {world_size_1} of them, ",
        "/load PATH or /load NAME=PATH",
        "/mix polite:0.7 brief:0.3",
        "/unload NAME",
        "/use NAME",
        "; the longest micro-batch comes with the first step",
        "Hugging Face",
        "Os \\{ code: (\\d+)",
        "^model name\\s*:\\s*(.+)$",
        "apt install g++",
        "auto or a number",
        "auto or a whole number",
        "auto, true or false",
        "can't allocate memory",
        "command line: {value_1}\n\n",
        "could not create a memory object",
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        "epoch {epoch_1}/{epochs_3}  loss {mean_5}",
        "errno:? (\\d+)",
        "iostream error|file write failed|No space left on device|failed writing file",
        "lorakit {version_1}, Python {value_3}, {value_5}\n",
        "must be a finite number",
        "must be a mapping such as {{save_steps: 3}}",
        "must be a number",
        "must be a whole number",
        "must be text",
        "must be true or false",
        "must be {expected}",
        "must be {value_1}",
        "must be {words_1} {value_3}",
        "must not be empty",
        "os error (\\d+)",
        "outside lorakit",
        "path or list of",
        "pip exited with {returncode_1}",
        "pip install -e .[modelscope]",
        "swatch b{number_1}",
        "texts shares",
        "token trained",
        "torch_dtype auto: ",
        "tried before the first step: {trial_1}{later_2}",
        "uv pip install --torch-backend=auto --reinstall torch",
        "xcode-select --install",
        "{pictures_0}; longest row {longest_2}",
        "{tokens_0} an epoch, {targets_2} of them trained{value_4}",
        "{word_0} is no command\nhint: {value_2}",
    )
)
# Labels and headings of one word.
WORDS: tuple[str, ...] = (
    "sequences",
    "cut",
    "dropped",
    "duplicates",
    "answer",
    "proof",
    "Answers",
    "Data",
    "Loss",
    "Memory",
    "Scores",
    "Speed",
    "adapter",
    "answering",
    "answers",
    "base",
    "compiled",
    "copied",
    "cores",
    "counts",
    "device",
    "disk",
    "dtype",
    "evaluating",
    "expected",
    "exporting",
    "field",
    "here",
    "interrupted",
    "kernels",
    "loaded",
    "loading",
    "memory",
    "merging",
    "missing",
    "model",
    "none",
    "nothing",
    "off",
    "on",
    "optional",
    "or",
    "packages",
    "perplexity",
    "plan",
    "planning",
    "preparing",
    "processor",
    "question",
    "reading",
    "row",
    "rows",
    "scores",
    "starting",
    "steps",
    "stopped",
    "system",
    "thinking",
    "time",
    "tokens",
    "train",
    "training",
    "tuned",
    "unchanged",
    "validation",
)
# Messages that are put together from pieces.
WHOLE: tuple[str, ...] = (
    "Ctrl-C once more leaves",
    "about {value_1}",
    "also in the other file",
    "does not exist",
    "epoch {epoch_1}/{epochs_3}  loss {mean_5}  validation loss {loss_7}  {speed_9} tokens/s  {left_11} left",
    "epoch {epoch_1}/{epochs_3}  loss {mean_5}  {speed_9} tokens/s  {left_11} left",
    "hint: {value_1}",
    "run it with Ollama",
    "send it to a hub",
    "stopping: this step is finished and a checkpoint saved first (again: stop at once)",
    "tried before the first step: {trial_1}",
    "{name_0} must be a finite number (found: {value_2})",
    "{name_0} must be a number (found: {value_2})",
    "{name_0} must be a whole number (found: {value_2})",
    "{name_0} must be above {value_2} (found: {value_4})",
    "{name_0} must be at least {value_2} (found: {value_4})",
    "{name_0} must be at most {value_2} (found: {value_4})",
    "{name_0} must be auto or a number (found: {value_2})",
    "{name_0} must be auto or a whole number (found: {value_2})",
    "{name_0} must be below {value_2} (found: {value_4})",
    "{name_0} must be text (found: {value_2})",
    "{name_0} must be true or false (found: {value_2})",
    "{name_0} must be {value_2} (found: {value_4})",
    "{name_0} must not be empty (found: {value_2})",
    "{steps_0} of {rows_a_step_2} rows, {after_step_4} done before",
    "{tokens_0} an epoch, {targets_2} of them trained; longest row {longest_4}",
    "{value_0} GB, {value_4} can be had",
    "{value_0} hours",
    "{value_0} is no command",
    "{value_0} minutes",
    "{value_0} of {rows_2} answers word for word, base none",
)


def templates_of(file: Path) -> Iterator[tuple[str, int]]:
    """Yield every message of a file as a template, with its line."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    ignored = set(_ignored(tree))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in ignored or id(node) in inside:
            continue
        template = _template(node)
        if template is not None and _is_message(template):
            yield template, node.lineno


def _ignored(tree: ast.AST) -> Iterator[int]:
    """Yield what is no message: documentation, keys, names of settings and files."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield id(node.value)
        if isinstance(node, ast.Subscript):
            yield from (id(part) for part in ast.walk(node.slice))
        if isinstance(node, ast.Compare):
            yield from (id(part) for part in ast.walk(node))


def _template(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    parts: list[str] = []
    for number, part in enumerate(node.values):
        parts.append(str(part.value) if isinstance(part, ast.Constant) else f"{{{_name(part, number)}}}")
    return "".join(parts)


def _name(part: ast.AST, number: int) -> str:
    value = part.value if isinstance(part, ast.FormattedValue) else part
    name = value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else "value"
    return f"{name.strip('_').lower()}_{number}"


def _is_message(template: str) -> bool:
    """Tell what a person reads from what a program does."""
    text = template
    while "{" in text and "}" in text:
        text = text.partition("{")[0] + text.partition("}")[2]
    words = [word for word in text.split() if sum(letter.isalpha() for letter in word) >= 1]
    letters = sum(letter.isalpha() and letter.isascii() for letter in text)
    return len(words) >= 2 and letters >= _FEWEST_LETTERS and "<" not in text and not text.startswith("--")


def extracted() -> dict[str, list[str]]:
    """Return the templates of all covered files, and what the help says of flags, with the files where they stand."""
    from lorakit.config.settings import settings

    found: dict[str, list[str]] = {}
    for name in COVERED:
        for template, _ in templates_of(PACKAGE / name):
            if template not in NOT_SHOWN:
                found.setdefault(template, []).append(f"lorakit/{name}")
    for setting in settings():
        if setting.has_flag:
            found.setdefault(setting.description, []).append("lorakit/config/settings.py")
    return found


def all_templates() -> dict[str, list[str]]:
    """Return all that a catalogue must have."""
    return extracted() | {text: ["scripts/messages.py"] for text in (*WORDS, *WHOLE)}


def catalogue_file(language: str) -> Path:
    """Return where the translations of a language are written."""
    return CATALOGUES / f"{language}.po"


def update(language: str) -> None:
    """Bring a catalogue up to date: new messages without a translation, those that are gone taken out."""
    from babel.messages.catalog import Catalog
    from babel.messages.pofile import read_po, write_po

    file = catalogue_file(language)
    known = read_po(io.BytesIO(file.read_bytes()), locale=language) if file.exists() else Catalog(locale=language)
    new = Catalog(locale=language, project="lorakit", fuzzy=False, creation_date=_NEVER, revision_date=_NEVER)
    fields = {template: message.string for message in known if (template := message.id)}
    for template, places in sorted(all_templates().items()):
        new.add(template, fields.pop(template, ""), locations=[(name, 0) for name in sorted(set(places))])
    written = io.BytesIO()
    write_po(written, new, sort_output=True, width=0, omit_header=False, include_lineno=False)
    file.write_bytes(written.getvalue())


def compiled(language: str) -> bytes:
    """Return the compiled form of a catalogue."""
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    written = io.BytesIO()
    write_mo(written, read_po(io.BytesIO(catalogue_file(language).read_bytes()), locale=language))
    return written.getvalue()


if __name__ == "__main__":
    for one in LANGUAGES:
        if sys.argv[1:] == ["update"]:
            update(one)
        elif sys.argv[1:] == ["compile"]:
            (CATALOGUES / f"{one}.mo").write_bytes(compiled(one))
        else:
            raise SystemExit("python scripts/messages.py update|compile")
