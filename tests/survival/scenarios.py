"""What the crash machine strikes: each task of lorakit in the folders that matter to it."""

from dataclasses import dataclass, field

RUN = "run"
LONGEST_END = 30  # seconds from the end of one process of a task to that of all
# What a person may have put beside lorakit's files; never touched.
OWN = ("lora_model.older/x", "merged.unproven/x", "checkpoint-best/x", "previous/mine/x", "merged.older/x", ".lock")
WORKING = (".lorakit-writing-", ".lorakit-older-", ".lorakit-going-")


@dataclass(frozen=True)
class Earlier:
    """A task that has left something in the folder.

    Attributes:
        task: Its own arguments.
        stopped_after: The step after which Ctrl-C was pressed, if it was.
    """

    task: tuple[str, ...]
    stopped_after: int | None = None


@dataclass(frozen=True)
class Scenario:
    """A task that is struck, and how it is taken up again.

    Attributes:
        task: Its own arguments.
        before: What has been run in the folder.
        again: Arguments to go on with; where they are refused, the task itself is run again.
        patches: See crash_server.py.
        result: Files that must come out as if nothing had happened.
        kept: Files of ``before`` that must still be there, in their place or in an archive.
        own: A file of the user's in a folder that is replaced, which is taken over.
        ranks: Processes that do it together.
        struck_rank: The one of them that is struck.
    """

    task: tuple[str, ...]
    before: tuple[Earlier, ...] = ()
    again: tuple[str, ...] = ()
    patches: dict[str, list[int]] = field(default_factory=dict)
    result: tuple[str, ...] = ("lora_model/adapter_model.safetensors",)
    kept: tuple[str, ...] = ()
    own: str | None = None
    ranks: int = 1
    struck_rank: int = 0


TRAIN = ("--task", "train")
RESUME = (*TRAIN, "--set=resume=true")
BEST = ("--set=early_stopping_patience=1", "--learning_rate=0.3")
SHARDED = ("--set=trainer_args={fsdp: true}", "--per_device_train_batch_size=1")
ADAPTER = ("lora_model/adapter_model.safetensors", "lora_model/adapter_config.json", "lora_model/lorakit.json")
FINISHED = (Earlier(TRAIN),)
MERGED = ("merged/model.safetensors", "merged/config.json", "merged/tokenizer.json")
SCENARIOS = {
    "first run": Scenario(TRAIN, again=RESUME),
    "second run": Scenario((*TRAIN, "--learning_rate=1e-3"), FINISHED, (*RESUME, "--learning_rate=1e-3"), kept=ADAPTER),
    "resumed": Scenario(RESUME, (Earlier(TRAIN, stopped_after=1),), RESUME),
    "resumed at its end": Scenario(RESUME, FINISHED, RESUME, kept=ADAPTER),
    "best adapter": Scenario((*TRAIN, *BEST), (), (*RESUME, *BEST)),
    "halved": Scenario(TRAIN, again=RESUME, patches={"scarce_memory": [60, 1]}),
    "evaluated": Scenario(
        ("--task", "evaluate"), FINISHED, result=("predictions.jsonl", "eval_results.json"), kept=ADAPTER
    ),
    "merged": Scenario(("--task", "merge"), FINISHED, result=MERGED, kept=ADAPTER),
    "merged again": Scenario(
        ("--task", "merge"),
        (*FINISHED, Earlier(("--task", "merge", "--set=proof_questions=1"))),
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
