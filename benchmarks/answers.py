"""Job I1: answers one at a time and eight together, by lorakit, plain transformers and llama.cpp in one run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import RANDOM_QWEN3, ROOT, STARTER
from peers import OWN, NotInstalledError, cache_folder, python_of, reason_in, versions_of

NAME = "I1"
MODELS = {
    STARTER: "starter model (SmolLM2-135M-Instruct)",
    RANDOM_QWEN3: "random weights in the shapes of Qwen3-0.6B",
}
ANSWER_TOKENS = 48
ONE_BY_ONE = 2  # questions that are answered one at a time
TOGETHER = 8
# Chats of the lengths that people ask in; their beginning is the system prompt, common to all.
QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Give three tips for staying healthy.",
    "How can we reduce air pollution in a large city with many old cars?",
    "Describe a time when you had to make a difficult decision, and what came of it.",
    "What are the three primary colours?",
    "Write a short story in the third person about a character who has to make an important career choice.",
    "Explain why four quarters make a whole.",
    "如何保持良好的睡眠质量？",
)
_FOLDER = Path(__file__).parent
_LIMIT_SECONDS = 900


@dataclass(frozen=True)
class Way:
    """One way to answer.

    Attributes:
        name: Short.
        title: In tables.
        program: Of this folder.
        environment: Whose packages it finds.
        settings: What the program is told.
    """

    name: str
    title: str
    program: str
    environment: str
    settings: Mapping[str, Any]


def _own(name: str, title: str, **settings: Any) -> Way:
    return Way(name, title, "run_answers.py", OWN, settings)


def _llama_cpp(weights: str, title: str) -> Way:
    return Way(f"llama.cpp-{weights}", title, "run_llama_cpp.py", "llama-cpp", {"weights": weights})


REFERENCE = "transformers"
WAYS = (
    _own("lorakit-same", "lorakit, weights as they are", way="lorakit", decode_weights="same"),
    _own("lorakit-int8", "lorakit, int8", way="lorakit", decode_weights="int8"),
    _own("lorakit-int4", "lorakit, int4", way="lorakit", decode_weights="int4"),
    _own("lorakit-before", "lorakit before, by `generate`", way="generate"),
    _own(REFERENCE, "plain transformers", way=REFERENCE),
    _llama_cpp("bf16", "llama.cpp, bf16"),
    _llama_cpp("q8_0", "llama.cpp, Q8_0"),
    _llama_cpp("q4_0", "llama.cpp, Q4_0"),
)
COLUMNS = (
    ("one at a time, tokens/s", "one", ".1f"),
    ("eight together, tokens/s", "together", ".1f"),
    ("load, s", "load_seconds", ".1f"),
    ("peak GB", "peak_gigabytes", ".2f"),
)


def measure(repeats: int, common: Mapping[str, Any], models: Sequence[str] = tuple(MODELS)) -> list[dict[str, Any]]:
    """Measure every way on every model, in turns; return lines of history, one for each.

    Args:
        repeats: Runs of each way.
        common: What every line has.
        models: Keys of `MODELS`.
    """
    lines = []
    for model in models:
        prepared = json.loads(_child(python_of(OWN), "prepare_answers.py", model, str(cache_folder())))
        runs: dict[str, list[Mapping[str, Any] | str]] = {way.name: [] for way in WAYS}
        for repeat in range(repeats):
            for way in WAYS:
                found = _run(way, prepared)
                print(f"{NAME}-{model}-{way.name}-{repeat}  {found}", flush=True)
                runs[way.name].append(found)
        lines += [_line(common, model, way, runs[way.name]) for way in WAYS]
    return lines


def _run(way: Way, prepared: Mapping[str, Any]) -> Mapping[str, Any] | str:
    try:
        python = python_of(way.environment)
        said = _child(python, way.program, json.dumps({**prepared, **way.settings}))
    except (NotInstalledError, SystemExit, subprocess.TimeoutExpired) as error:
        return f"failed: {error}"
    found: Mapping[str, Any] = json.loads(said)
    return found


def _child(python: Path, program: str, *words: str) -> str:
    """Run a program of this folder with lorakit importable, and return the last line it prints."""
    outcome = subprocess.run(
        [str(python), str(_FOLDER / program), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_SECONDS,
    )
    if outcome.returncode != 0:
        raise SystemExit(f"{program} ended with {outcome.returncode}: {reason_in(outcome.stderr)}")
    return outcome.stdout.strip().splitlines()[-1]


def _line(common: Mapping[str, Any], model: str, way: Way, runs: Sequence[Mapping[str, Any] | str]) -> dict[str, Any]:
    fault = next((run for run in runs if isinstance(run, str)), None)
    numbers = None
    if fault is None:
        measured = [run for run in runs if not isinstance(run, str)]
        numbers = {key: statistics.median(run[key] for run in measured) for _, key, _ in COLUMNS}
    found = {"job": NAME, "model": model, "tool": way.name, "fault": fault, "numbers": numbers}
    return {**common, **found, "versions": _versions(way.environment) if fault is None else {}}


def _versions(environment: str) -> dict[str, str]:
    if environment == OWN:
        return dict(versions_of(OWN))
    pins = (_FOLDER / "peers" / f"{environment}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in pins if "==" in line)


def table(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Lay out the results of one model, the header first; ratios are to plain transformers."""
    header = ("tool", *(title for title, _, _ in COLUMNS), "of transformers: one", "eight")
    reference = next((line["numbers"] for line in lines if line["tool"] == REFERENCE), None)
    titles = {way.name: way.title for way in WAYS}
    rows = [header]
    for line in lines:
        numbers, title = line["numbers"], titles.get(line["tool"], line["tool"])
        if numbers is None:
            rows.append((title, *["-"] * (len(COLUMNS) + 1), str(line["fault"])))
            continue
        ratios = [f"{numbers[key] / reference[key]:.2f} x" if reference else "-" for key in ("one", "together")]
        rows.append((title, *(format(numbers[key], style) for _, key, style in COLUMNS), *ratios))
    return rows


def section(history: Sequence[Mapping[str, Any]], as_markdown: Any) -> list[str]:
    """Write the newest complete run of every model on each kind of machine, for docs/performance.md."""
    newest: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for line in history:
        if line["job"] == NAME and line["is_complete"]:
            kind = (line["model"], line["machine"]["processor"], line.get("kernels", "native"))
            earlier = newest.get(kind, [])
            newest[kind] = [*earlier, line] if earlier and earlier[0]["date"] == line["date"] else [line]
    return [_section(lines, as_markdown) for lines in newest.values()]


def _section(lines: Sequence[Mapping[str, Any]], as_markdown: Any) -> str:
    first = lines[0]
    machine = first["machine"]
    capped = "" if first.get("kernels", "native") == "native" else f", kernels for {first['kernels']} only"
    return (
        f"## {NAME}: answers, {MODELS[first['model']]}\n\n"
        f"Greedy answers of {ANSWER_TOKENS} tokens to chats of 30 to 60, prompts included, weights in bfloat16 where "
        f"nothing else is said; {first['repeats']} runs a way, in turns. {first['date'][:10]}, commit "
        f"{first['commit']}{' with changes' if first['dirty'] else ''}, {machine['cores']} cores of "
        f"{machine['processor']} ({', '.join(machine['flags'])}){capped}.\n\n{as_markdown(table(lines))}\n"
    )


def main() -> None:
    """Print a table: ``answers.py [REPEATS]``."""
    from report import as_text

    lines = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1, {})
    for model, title in MODELS.items():
        print(f"\n{title}\n{as_text(table([line for line in lines if line['model'] == model]))}")


if __name__ == "__main__":
    main()
