"""Going on from a checkpoint: only with the rows, the model, the settings and the decisions of the run that left it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorakit import console
from lorakit.config import Config, load_config
from lorakit.config.listing import settings
from lorakit.engine import FORMATS, Ranks
from lorakit.errors import RunError
from lorakit.outgoing import json_without_secrets, strict_json
from lorakit.runs import (
    FILES_WRITTEN_OVER,
    CheckpointFacts,
    PlanRecord,
    RunIdentity,
    checkpoints,
    fault_in,
    is_own_checkpoint,
    keep_foreign,
    move_aside,
    read_facts,
    read_identity,
    step_of,
)
from lorakit.train.checkpoints.checkpoint_state import fault_of_state
from lorakit.train.checkpoints.saving import OPTIMIZER_FILE

# Of trainer_args: these change where, how fast or when something is written, never a number.
_ARGUMENTS_WITHOUT_EFFECT = (
    *(
        "save_total_limit",
        "logging_",
        "report_to",
        "run_name",
        "disable_tqdm",
        "ddp_",
        "log_level",
        "project",
        "trackio",
    ),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("activation_checkpointing", "gradient_checkpointing"),
)
# These decide which adapter is kept where the one of the best validation loss is; nothing otherwise.
_ARGUMENTS_OF_THE_BEST = ("save_", "eval_")
_FITTED = ("load_in_8bit", "load_in_4bit")


@dataclass(frozen=True)
class EarlierRun:
    """The run that is continued.

    Attributes:
        checkpoint: Where it continues.
        identity: What its numbers depended on.
        facts: What it had decided by then.
    """

    checkpoint: Path
    identity: RunIdentity
    facts: CheckpointFacts

    @property
    def step(self) -> int:
        """The last step that is done."""
        return step_of(self.checkpoint)

    @property
    def plan(self) -> PlanRecord:
        """What it had decided, with the token budget of this process."""
        budgets, own = self.facts.max_tokens, Ranks.of_environment().index
        return replace(self.facts.plan, max_tokens=budgets[own] if own < len(budgets) else min(budgets))

    @property
    def dtype(self) -> str | None:
        """The number format it computed in; None where what is written there is none."""
        return self.identity.dtype if self.identity.dtype in FORMATS else None

    def has_replayed(self, count: int) -> bool:
        """Tell whether it trains so many answers of its base; by force a run may go on with others."""
        return self.identity.replayed is not None and self.identity.settings.get("replay") == count


def find_earlier_run(config: Config, folder: Path) -> EarlierRun | None:
    """Return the run to continue where the settings ask to, else None.

    Raises:
        RunError: There is no whole checkpoint, or nothing says what its run was; with ``resume: auto`` the run begins
            anew.
    """
    if not config.resume:
        return None
    identity = read_identity(folder)
    found = _newest_whole(folder, identity) if identity else None
    if identity and found:
        return EarlierRun(found[0], identity, found[1])
    missing = "readable run.json" if identity is None and checkpoints(folder) else "whole checkpoint"
    if config.resume == "auto":
        console.note(f"nothing to go on from: there is no {missing} in {folder}, so this run begins anew")
        return None
    raise RunError(f"resume: there is no {missing} in {folder}", "train without resume, or set output_dir")


def clear_the_way(earlier: EarlierRun, folder: Path) -> None:
    """Move aside what this run has not left, or somebody has changed, where it is still to write."""
    later = [path for path in checkpoints(folder) if step_of(path) > earlier.step]
    foreign = [path for path in later if not is_own_checkpoint(path, earlier.identity.mark)]
    if foreign:
        names = ", ".join(path.name for path in foreign)
        console.note(f"{names}: left by another run or changed, and moved to {move_aside(folder, foreign)}")
    keep_foreign(folder, FILES_WRITTEN_OVER, console.note)


def resumed_settings(config: Config, earlier: EarlierRun | None) -> Config:
    """Return the settings of a run with what ``auto_fit`` changed in the one that it resumes, if any."""
    if earlier is None or not config.auto_fit or config.load_in_4bit or config.load_in_8bit:
        return config
    return config.model_copy(update={name: bool(earlier.identity.settings.get(name)) for name in _FITTED})


def _newest_whole(folder: Path, identity: RunIdentity) -> tuple[Path, CheckpointFacts] | None:
    for checkpoint in checkpoints(folder):
        facts = read_facts(checkpoint)
        fault = fault_in(checkpoint) or fault_of_state(checkpoint) or _fault_of(checkpoint, facts, identity)
        if facts is not None and fault is None:
            return checkpoint, facts
        console.warn(f"{checkpoint} is passed over: {fault}")
    return None


def _fault_of(checkpoint: Path, facts: CheckpointFacts | None, identity: RunIdentity) -> str | None:
    if facts is None:
        return "it does not say which run left it"
    if facts.run != identity.mark:
        return "another run left it"
    if not (checkpoint / OPTIMIZER_FILE).is_file():
        return "it was saved with save_only_model, from which no run can go on"
    return None


def check_same(earlier: EarlierRun, now: RunIdentity, is_forced: bool) -> None:
    """Hold a resumed run to the one it continues.

    Raises:
        RunError: It is another run, and ``resume: force`` is not set.
    """
    differences = "; ".join(now.differences(_completed(earlier.identity)))
    if not differences:
        return
    if not is_forced:
        raise RunError(
            f"resume: the run that left {earlier.checkpoint} was another one ({differences})",
            "give it what it had, or set resume=force to go on with the difference",
        )
    console.warn(f"resumed by force though {differences}")


def _completed(identity: RunIdentity) -> RunIdentity:
    """Give a run of an earlier version the settings that there were not yet, which it had at their defaults."""
    defaults = effective_settings(load_config(None, {}, []))
    return replace(identity, settings={**defaults, **identity.settings})


def effective_settings(config: Config) -> dict[str, Any]:
    """Return the settings that change what is learnt, or which adapter is kept."""
    chosen = {setting.name: getattr(config, setting.name) for setting in settings() if setting.changes_result}
    chosen["load_best_model"] = config.keeps_best
    without_effect = _ARGUMENTS_WITHOUT_EFFECT + (() if config.keeps_best else _ARGUMENTS_OF_THE_BEST)
    arguments = {
        f"trainer_args.{name}": value
        for name, value in config.trainer_args.items()
        if not name.startswith(without_effect)
    }
    return {name: _comparable(name, value) for name, value in (chosen | arguments).items()}


def _comparable(name: str, value: Any) -> Any:
    """Return what of a setting can be written down to be compared: of one that holds a secret, its hash."""
    text = strict_json({name: value})
    holds_none = json_without_secrets({name: value}) == text
    return value if holds_none else f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"
