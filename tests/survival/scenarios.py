"""What the crash machine strikes: each task of lorakit in the folders that matter to it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from survival.machine import KILLED, CrashMachine, put, tree

RUN = "run"
LONGEST_END = 30  # seconds from the end of one process of a task to that of all
# What a person may have put beside lorakit's files; never touched.
OWN = ("lora_model.older/x", "merged.unproven/x", "checkpoint-best/x", "previous/mine/x", "merged.older/x", ".lock")
WORKING = (".lorakit-writing-", ".lorakit-older-", ".lorakit-going-")


@dataclass(frozen=True)
class Scenario:
    """A task that is struck, and how it is taken up again.

    Attributes:
        task: Its own arguments.
        before: Arguments of the tasks that have left something in the folder, each with its patches.
        again: Arguments to go on with; where they are refused, the task itself is run again.
        patches: See crash_server.py.
        result: Files that must come out as if nothing had happened.
        kept: Files of ``before`` that must still be there, in their place or in an archive.
        own: A file of the user's in a folder that is replaced, which is taken over.
        ranks: Processes that do it together.
        struck_rank: The one of them that is struck.
    """

    task: tuple[str, ...]
    before: tuple[tuple[tuple[str, ...], dict[str, list[int]]], ...] = ()
    again: tuple[str, ...] = ()
    patches: dict[str, list[int]] = field(default_factory=dict)
    result: tuple[str, ...] = ("lora_model/adapter_model.safetensors",)
    kept: tuple[str, ...] = ()
    own: str | None = None
    ranks: int = 1
    struck_rank: int = 0

    @property
    def processes(self) -> dict[str, int]:
        """What an order says of its processes."""
        return {"ranks": self.ranks, "struck_rank": self.struck_rank}


TRAIN = ("--task", "train")
RESUME = (*TRAIN, "--set=resume=true")
BEST = ("--set=early_stopping_patience=1", "--learning_rate=0.3")
SHARDED = ("--set=trainer_args={fsdp: true}", "--per_device_train_batch_size=1")
ADAPTER = ("lora_model/adapter_model.safetensors", "lora_model/adapter_config.json", "lora_model/lorakit.json")
FINISHED = ((TRAIN, {}),)
MERGED = ("merged/model.safetensors", "merged/config.json", "merged/tokenizer.json")
SCENARIOS = {
    "first run": Scenario(TRAIN, again=RESUME),
    "second run": Scenario((*TRAIN, "--learning_rate=1e-3"), FINISHED, (*RESUME, "--learning_rate=1e-3"), kept=ADAPTER),
    "resumed": Scenario(RESUME, ((TRAIN, {"stop_at": [1]}),), RESUME),
    "resumed at its end": Scenario(RESUME, FINISHED, RESUME, kept=ADAPTER),
    "best adapter": Scenario((*TRAIN, *BEST), (), (*RESUME, *BEST)),
    "halved": Scenario(TRAIN, again=RESUME, patches={"scarce_memory": [60, 1]}),
    "evaluated": Scenario(
        ("--task", "evaluate"), FINISHED, result=("predictions.jsonl", "eval_results.json"), kept=ADAPTER
    ),
    "merged": Scenario(("--task", "merge"), FINISHED, result=MERGED, kept=ADAPTER),
    "merged again": Scenario(
        ("--task", "merge"),
        (*FINISHED, (("--task", "merge", "--set=proof_questions=1"), {})),
        result=MERGED,
        kept=(*ADAPTER, "merged/README.md"),
        own="merged/README.md",
    ),
    "exported to peft": Scenario(
        ("--task", "export", "--format=peft"), FINISHED, result=("peft/adapter_model.safetensors",), kept=ADAPTER
    ),
    "exported to gguf": Scenario(("--task", "export", "--format=gguf"), FINISHED, result=("gguf/model-f32.gguf",)),
    "two processes": Scenario(TRAIN, again=RESUME, ranks=2),
    "second of two processes": Scenario(TRAIN, again=RESUME, ranks=2, struck_rank=1),
    "second run of two processes": Scenario(TRAIN, FINISHED, RESUME, kept=ADAPTER, ranks=2),
    "three sharded processes": Scenario((*TRAIN, *SHARDED), again=(*RESUME, *SHARDED), ranks=3),
    "evaluated by two processes": Scenario(
        ("--task", "evaluate"), FINISHED, result=("predictions.jsonl", "eval_results.json"), kept=ADAPTER, ranks=2
    ),
}


class Stage:
    """A scenario made ready: what it begins with, and what comes of it undisturbed.

    Args:
        machine: Runs it.
        scenario: To be run.
        argv: From a task's own arguments to all of them.
        folder: For what it begins with.
    """

    def __init__(
        self, machine: CrashMachine, scenario: Scenario, argv: Callable[[tuple[str, ...]], list[str]], folder: Path
    ) -> None:
        self.machine, self.scenario, self.argv = machine, scenario, argv
        self._begin, self.run = folder, machine.root / RUN
        self._make_ready()
        self.reset()
        whole = machine.run(argv(scenario.task), patches=scenario.patches, **scenario.processes)
        assert whole.code == 0, whole.errors
        self.calls = whole.calls
        self._wanted = {name: (self.run / name).read_bytes() for name in scenario.result}

    def _make_ready(self) -> None:
        put(Path("nowhere"), self.run)
        for task, patches in self.scenario.before:
            outcome = self.machine.run(self.argv(task), patches=patches, ranks=self.scenario.ranks)
            assert outcome.code in (0, 130), outcome.errors
        for name in (*OWN, *([self.scenario.own] if self.scenario.own else [])):
            (self.run / name).parent.mkdir(parents=True, exist_ok=True)
            (self.run / name).write_text("mine")
        put(self.run, self._begin)
        self._kept = {name: (self._begin / name).read_bytes() for name in self.scenario.kept}

    def reset(self) -> None:
        """Begin again."""
        put(self._begin, self.run)

    def strike(self, point: int, mode: str, error: int = 0) -> str:
        """Disturb the task at a call, go on from there, and hold the result to that of an undisturbed run.

        Returns:
            What was struck, and how it went on.
        """
        self.reset()
        how = {"point": point, "mode": mode, "error": error} | self.scenario.processes
        struck = self.machine.run(self.argv(self.scenario.task), patches=self.scenario.patches, **how)
        what = f"{mode} {error or ''} at call {point} ({struck.last}): exit {struck.codes}"
        assert set(struck.codes) <= {0, 2, KILLED}, f"{what}\n{struck.errors[-2000:]}"
        assert struck.seconds < LONGEST_END, f"{what}: the others have ended after {struck.seconds:.0f} s"
        assert "internal error" not in struck.errors, f"{what}\n{struck.errors[-2000:]}"
        assert struck.errors.count("error: ") <= 1, f"{what}: says it too often\n{struck.errors[-4000:]}"
        self._check_nothing_lost(what)
        if struck.code:
            what += self.go_on(what)
        self._check_nothing_lost(what)
        found = {name: (self.run / name).read_bytes() for name in self.scenario.result}
        for name, content in self._wanted.items():
            assert found[name] == content, f"{what}: {name} is another one"
        left = [name for name in tree(self.run) if name.split("/")[0].startswith(WORKING)]
        assert not left or not struck.code, f"{what}: {left}"
        return what

    def go_on(self, what: str) -> str:
        """Take the task up again; return how."""
        for words in (self.scenario.again or self.scenario.task, self.scenario.task):
            outcome = self.machine.run(self.argv(words), patches=self.scenario.patches, ranks=self.scenario.ranks)
            assert "internal error" not in outcome.errors, f"{what}\n{outcome.errors[-2000:]}"
            if outcome.code == 0:
                return f", went on with {' '.join(words[:3])}"
            assert outcome.code == 2, f"{what}\n{outcome.errors[-2000:]}"
        raise AssertionError(f"{what}: cannot go on\n{outcome.errors[-2000:]}")

    def _check_nothing_lost(self, what: str) -> None:
        there = tree(self.run)
        for name in OWN:
            assert there.get(name) == b"mine", f"{what}: the user's own {name} is gone"
        for name, content in self._kept.items():
            places = [path for path, found in there.items() if path.endswith(_within(name)) and found == content]
            assert places, f"{what}: {name} is lost"


def _within(name: str) -> str:
    """Return a file's name within the folder that may have been renamed as a whole."""
    return "/" + name.split("/", 1)[1]
