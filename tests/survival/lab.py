"""A tiny model, a few rows, and a crash machine to run tasks on them."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest
from conftest import save_family
from survival.machine import CrashMachine, Outcome, put
from survival.scenarios import RUN, SCENARIOS, TRAIN, Earlier
from survival.stage import Stage
from trained import ROWS
from vision import draw, save_vision_model

needs_shim = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="the shim is C for Linux"
)
SETTINGS = {
    "torch_dtype": "float32",
    "target_modules": "[q_proj]",
    "lora_dropout": 0.1,
    "max_new_tokens": 2,
    "max_generated_rows": 1,
    "proof_questions": 2,
}


class Lab:
    """Runs tasks in one folder.

    Args:
        root: For all of it.
        model: A model's folder; None makes a tiny one.
        rows: To train on and to be asked.
        settings: Beside or in place of those above.
    """

    def __init__(
        self,
        root: Path,
        model: Path | None = None,
        rows: Sequence[dict[str, str]] = ROWS[:4],
        settings: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self._settings = SETTINGS | dict(settings)
        here, self._model = root / "here", model or save_family("llama", root / "model")
        here.mkdir()
        self.root, self.run = root, here / RUN
        self._rows, self._config = root / "rows.json", root / "empty.yaml"
        self._rows.write_text(json.dumps(list(rows), ensure_ascii=False), encoding="utf-8")
        self._config.write_text("")
        self.machine = CrashMachine(root, here, self.argv(TRAIN))
        self.close = self.machine.close
        self._stages: dict[str, Stage] = {}
        self._begun: dict[tuple[tuple[Earlier, ...], int], Path] = {}

    def argv(self, task: tuple[str, ...]) -> list[str]:
        """Return all arguments of a task."""
        settings = {"train_file": self._rows, "validation_file": self._rows, "num_train_epochs": 2} | self._settings
        words = ["--config", self._config, "--model_name_or_path", self._model, "--output_dir", self.run]
        return [*map(str, words), *(f"--set={name}={value}" for name, value in settings.items()), *task]

    def stage(self, name: str) -> Stage:
        """Return the stage of a scenario, which is made ready once."""
        if name not in self._stages:
            scenario = SCENARIOS[name]
            begun = self._after(scenario.before, scenario.ranks)
            self._stages[name] = Stage(self.machine, scenario, self.argv, begun)
        return self._stages[name]

    def _after(self, before: tuple[Earlier, ...], ranks: int) -> Path:
        """Return a folder in which these tasks have been run, one after the other."""
        if not before:
            return self.root / "nowhere"
        if (before, ranks) not in self._begun:
            *earlier, last = before
            put(self._after(tuple(earlier), ranks), self.run)
            patches = {"stop_at": [last.stopped_after]} if last.stopped_after else {}
            outcome = self.machine.run(self.argv(last.task), patches=patches, ranks=ranks)
            assert outcome.code in (0, 130), outcome.errors
            self._begun[before, ranks] = self.root / f"begun-{len(self._begun)}"
            put(self.run, self._begun[before, ranks])
        return self._begun[before, ranks]

    def train(self, words: list[str], patches: dict[str, list[int]], is_new: bool = True, **order: object) -> Outcome:
        """Train, in an empty folder or in what is there."""
        if is_new:
            put(Path("nowhere"), self.run)
        given = {word.partition("=")[2].partition("=")[0] for word in words}
        own = [word for word in self.argv(()) if word.removeprefix("--set=").partition("=")[0] not in given]
        return self.machine.run([*own, "--task", "train", *words], patches=patches, **order)


def lab_with_pictures(root: Path) -> Lab:
    """Return a lab whose rows have pictures, but for one of them."""
    pictures = [draw(root / f"{colour}.png", (70, 50), colour) for colour in ("red", "green", "blue")]
    rows = [*({**row, "image": picture} for row, picture in zip(ROWS, pictures, strict=False)), ROWS[3]]
    settings = {"target_modules": "all-linear", "min_pixels": 256, "max_pixels": 4096}
    return Lab(root, save_vision_model(root / "model"), rows, settings)


def lab_fixture(make: Callable[..., Lab] = Lab, **settings: object) -> Callable[..., Iterator[Lab]]:
    """Return a fixture: a lab for the tests of one file."""

    @pytest.fixture(scope="module")
    def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
        made = make(tmp_path_factory.mktemp("lab"), **settings)
        yield made
        made.close()

    return lab
