"""Record a newcomer's first hour: ``python scripts/record_first_hour.py`` writes docs/first-hour.md, and in Chinese.

The wheel is built and installed into an environment of its own (with the packages of this one); every command is run in
a new folder, and its whole terminal text is kept, as a file would have it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = [
    {"text": "你们几点开门？", "target": "周一到周五早上九点开门，周末十点。"},
    {"text": "怎么退货？", "target": "七天之内带上小票，到店里就能退。"},
    {"text": "可以开发票吗？", "target": "可以，结账时告诉店员公司名称和税号。"},
    {"text": "停车要钱吗？", "target": "消费满一百元，停车两小时免费。"},
    {"text": "有会员卡吗？", "target": "有，在前台填一张表就能办，不收费。"},
    {"text": "可以带宠物吗？", "target": "小型宠物可以，请一直抱着或放在包里。"},
    {"text": "送货上门吗？", "target": "五公里以内免费送，当天就到。"},
    {"text": "When do you open?", "target": "At nine on weekdays, at ten on weekends."},
]
MISTAKE = ('几点开门？", ', '几点开门？" ')  # a comma that somebody forgot
WORDS = {
    "en": {
        "title": "The first hour",
        "other": "[中文](first-hour.zh-CN.md)",
        "about": "Recorded by `scripts/record_first_hour.py` in a new folder with nothing but the file of rows, by the "
        "starter model on a CPU. The text is what a file gets; in a terminal the dots are a moving line.",
        "wheel": "Install",
        "init": "Begin with your own rows. This file lacks a comma, as it happens.",
        "mistake": "Look before you train: the mistake is named with its line.",
        "preview": "Mended, the rows are shown as the model will see them, the trained tokens in brackets.",
        "advise": "Which learning rate suits these rows?",
        "train": "Train with it.",
        "evaluate": "Measure it again at any time.",
        "inference": "Ask it.",
        "merge": "Make it a full model, in float32, which keeps the adapter exactly.",
        "export": "Or files for Ollama.",
    },
    "zh": {
        "title": "第一个小时",
        "other": "[English](first-hour.md)",
        "about": "由 `scripts/record_first_hour.py` 在一个只有数据文件的新文件夹里记录，用入门模型在 CPU 上运行。"
        "文字与写进文件时一样；在终端里，那些点是一行会动的进度。",
        "wheel": "安装",
        "init": "从自己的数据开始。这个文件恰好少了一个逗号。",
        "mistake": "训练之前先看一看：错误连同行号一起指出。",
        "preview": "改好之后，数据按模型将看到的样子显示，参与训练的词元在方括号里。",
        "advise": "哪个学习率适合这些数据？",
        "train": "用它训练。",
        "evaluate": "随时可以再测量。",
        "inference": "向它提问。",
        "merge": "合并成完整的模型，用 float32，适配器丝毫不变。",
        "export": "或者导出 Ollama 用的文件。",
    },
}
COMMANDS = {
    "init": ["init", "--train_file", "rows.json", "--set", "validation_share=0.25"],
    "mistake": ["preview"],
    "preview": ["preview"],
    "advise": ["advise"],
    "train": ["train", "--config", "output/advised.yaml"],
    "evaluate": ["evaluate"],
    "inference": ["inference", "--question", "怎么退货？"],
    "merge": ["merge", "--set", "export_dtype=f32"],
    "export": ["export", "--set", "export_dtype=f32"],
}
PAGES = {"en": "first-hour.md", "zh": "first-hour.zh-CN.md"}
_MOST_LINES = 90  # of one command, in the page


def environment_with_wheel(root: Path) -> Path:
    """Install the wheel into an environment; return the folder of its programs."""
    source = root / "source"
    kept_out = shutil.ignore_patterns(".*", "output", "tests", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=kept_out)
    quiet = ["-q", "--disable-pip-version-check"]
    build = [sys.executable, "-m", "pip", "wheel", *quiet, "--no-deps", "--no-build-isolation", "-w", str(root)]
    subprocess.run([*build, str(source)], check=True)
    [wheel] = root.glob("lorakit-*.whl")
    environment = root / "environment"
    venv.create(environment, with_pip=True)
    programs = environment / ("Scripts" if sys.platform == "win32" else "bin")
    subprocess.run([str(programs / "python"), "-m", "pip", "install", *quiet, "--no-deps", str(wheel)], check=True)
    [site] = environment.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def record(language: str, programs: Path, folder: Path) -> dict[str, tuple[int, str]]:
    """Run every command of the hour; return exit codes and texts."""
    rows = json.dumps(ROWS, ensure_ascii=False, indent=1)
    rows = re.sub(r"\{\n\s+", "{", re.sub(r",\n\s+\"target\"", ', "target"', rows)).replace("\n }", "}")
    (folder / "rows.json").write_text(rows.replace(*MISTAKE), encoding="utf-8")
    locale = {"en": "C.UTF-8", "zh": "zh_CN.UTF-8"}[language]
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LC_ALL")}
    variables |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "LANG": locale}
    found = {}
    for name, words in COMMANDS.items():
        if name == "preview":
            (folder / "rows.json").write_text(rows, encoding="utf-8")
        outcome = subprocess.run(
            [str(programs / "lorakit"), *words],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            check=False,
        )
        found[name] = (outcome.returncode, outcome.stdout)
    return found


def page(language: str, found: dict[str, tuple[int, str]]) -> str:
    """Return the recorded hour as Markdown."""
    other = next(one for one in PAGES if one != language)
    has_other = (ROOT / "docs" / PAGES[other]).is_file()
    return "\n".join(_lines(WORDS[language], found, has_other)).rstrip() + "\n"


def _lines(words: dict[str, str], found: dict[str, tuple[int, str]], has_other: bool) -> Iterator[str]:
    yield from (f"# {words['title']}", "", *([words["other"], ""] if has_other else []))
    yield from (words["about"], "", f"{words['wheel']}:", "")
    yield from ("```text", "$ pip install lorakit", "```", "")
    for name, (_, text) in found.items():
        shown = [line.rstrip() for line in text.splitlines()]
        if len(shown) > _MOST_LINES:
            shown = [*shown[:_MOST_LINES], f"... {len(shown) - _MOST_LINES} more lines"]
        command = " ".join(f'"{word}"' if "？" in word else word for word in ["lorakit", *COMMANDS[name]])
        yield from (words[name], "", "```text", f"$ {command}", *shown, "```", "")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        installed = environment_with_wheel(Path(place))
        for one in sys.argv[1:] or PAGES:
            here = Path(place) / one / "shop"
            here.mkdir(parents=True)
            (ROOT / "docs" / PAGES[one]).write_text(page(one, record(one, installed, here)), encoding="utf-8")
