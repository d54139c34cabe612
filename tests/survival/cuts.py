"""Settings drawn by a number, and a run that is cut and resumed with them."""

import json
import random
from functools import cache
from itertools import combinations

from trained import recorded

from lorakit.runs import EvaluationRecord, StepRecord

ROW_COUNT = 4
CUTS = ("stop", "kill", "power", "torn")
# What the run has, all combinations of any two of which are tried.
FEATURES = {
    "keeps": ("last", "best", "patience"),
    "accumulation": (1, 2),
    "dropout": (0.0, 0.1, 0.4),
    "schedule": ("linear", "cosine", "constant_with_warmup", "polynomial"),
    "halved_after": (None, 1, 2),
    "pictures": (None, "frozen", "train_projector", "train_vision"),
    "optimizer": ("adamw_torch", "sgd", "adafactor", "rmsprop"),
    "saved": ("each epoch", "every step", "every 2 steps", "every 3 steps"),
    "cut": CUTS,
}
_CANDIDATES = 40  # of which the one with the most new pairs is taken
_WITHOUT_PICTURES = 0.7  # of the runs that no pair asks for


def pairs(features):
    """All combinations of two of these, by their names."""
    return set(combinations(sorted(features.items()), 2))


def all_pairs():
    """All that there are."""
    names = sorted(FEATURES)
    return {
        ((one, left), (two, right))
        for one, two in combinations(names, 2)
        for left in FEATURES[one]
        for right in FEATURES[two]
    }


@cache
def runs(count):
    """Draw what so many runs have: first what brings the most pairs that there have not been, then anything."""
    draw, missing, drawn = random.Random("pairs"), all_pairs(), []
    for _ in range(count):
        candidates = [{name: draw.choice(values) for name, values in FEATURES.items()} for _ in range(_CANDIDATES)]
        best = max(candidates, key=lambda one: len(pairs(one) & missing))
        if not missing and draw.random() < _WITHOUT_PICTURES:
            best["pictures"] = None
        missing -= pairs(best)
        drawn.append(best)
    assert not missing, f"{count} runs are too few for all pairs: {missing}"
    return drawn


def drawn_settings(draw, features):
    """Choose settings for what a run has, and others that could each be forgotten by a checkpoint."""
    arguments = {
        "lr_scheduler_type": features["schedule"],
        # A polynomial has no room for a warmup in a run of two steps.
        "warmup_steps": 0 if features["schedule"] == "polynomial" else draw.choice([0, 2]),
        "optim": features["optimizer"],
        "weight_decay": draw.choice([0.0, 0.1]),
        "max_grad_norm": draw.choice([0.0, 0.5, 1.0]),
        "save_total_limit": draw.choice([1, 2, 3]),
        "train_sampling_strategy": draw.choice(["random", "sequential"]),
        "activation_checkpointing": draw.random() < 0.2,
        "label_smoothing_factor": draw.choice([0.0, 0.1]),
    }
    if features["saved"] != "each epoch":
        every = {"every step": 1, "every 2 steps": 2, "every 3 steps": 3}[features["saved"]]
        arguments |= {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": every, "eval_steps": every}
    if draw.random() < 0.2:
        arguments["max_steps"] = draw.choice([5, 7])
    batch = draw.choice([1, 2, 3])
    takes_part = batch * features["accumulation"] <= ROW_COUNT
    arguments["dataloader_drop_last"] = draw.random() < 0.3 and takes_part
    if features["keeps"] == "best" and draw.random() < 0.3:
        arguments |= {"save_strategy": "best"}
    settings = {
        "lora_dropout": features["dropout"],
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": features["accumulation"],
        "max_tokens_per_microbatch": draw.choice(["auto", 64, 120]),
        "learning_rate": draw.choice([1e-3, 0.05]),
        "seed": draw.randrange(1000),
        "num_train_epochs": draw.choice([2, 3]),
        "cpu_kernels": str(draw.random() < 0.7).lower(),
        "trainer_args": json.dumps(arguments),
    }
    kept = {
        "last": {"load_best_model": "false"},
        "best": {"load_best_model": "true"},
        "patience": {"early_stopping_patience": 1},
    }
    settings |= kept[features["keeps"]]
    if features["pictures"] not in (None, "frozen"):
        settings[features["pictures"]] = "true"
    patches = {"scarce_memory": [60, features["halved_after"]]} if features["halved_after"] else {}
    return [f"--set={name}={value}" for name, value in settings.items()], patches


def of(folder):
    """All that must be the same: losses, gradients, validations, and the adapter."""
    steps = [(record.step, record.loss, record.grad_norm) for record in recorded(folder, StepRecord)]
    validations = [(record.step, record.loss) for record in recorded(folder, EvaluationRecord)]
    return steps, validations, (folder / "lora_model" / "adapter_model.safetensors").read_bytes()


def check(lab, number, features):
    """Cut a run and resume it; return whether it could be: some settings train nothing, and are refused."""
    draw = random.Random(f"cut {number}")
    words, patches = drawn_settings(draw, features)
    uncut = lab.train(words, patches)
    if "every lora_B" in uncut.errors or "cannot go through" in uncut.errors:
        return False
    assert uncut.code == 0, f"{words}\n{uncut.errors[-1500:]}"
    wanted = of(lab.run)
    if features["cut"] == "stop":
        cut = lab.train(words, patches | {"stop_at": [draw.randrange(1, len(wanted[0]) + 1)]})
        assert cut.code in (0, 130), f"{words}\n{cut.errors[-1500:]}"
    else:
        cut = lab.train(words, patches, point=draw.randrange(uncut.calls), mode=features["cut"])
        assert cut.code in (0, -9), f"{words}\n{cut.errors[-1500:]}"
    resumed = lab.train([*words, "--set=resume=auto"], patches, is_new=False)
    assert resumed.code == 0, f"{words}, cut {cut}\n{resumed.errors[-1500:]}"
    found = of(lab.run)
    assert found[2] == wanted[2], f"number {number}: another adapter from {words}, {patches}, cut {cut}"
    assert found[0] == wanted[0], f"number {number}: other steps from {words}, {patches}, cut {cut}"
    assert found[1] == wanted[1], f"number {number}: other validations from {words}, {patches}, cut {cut}"
    return True
