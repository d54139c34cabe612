"""Settings drawn by a number, and a run that is cut and resumed with them."""

import json
import random

from trained import recorded

from lorakit.runs import EvaluationRecord, StepRecord

ROW_COUNT = 4


def drawn_settings(draw, has_pictures=False):
    """Choose settings that could each be forgotten by a checkpoint."""
    by_steps = draw.random() < 0.5
    every = draw.choice([1, 2, 3])
    arguments = {
        "lr_scheduler_type": draw.choice(["linear", "cosine", "constant_with_warmup", "polynomial"]),
        "warmup_steps": draw.choice([0, 2]),
        "optim": draw.choice(["adamw_torch", "sgd", "adafactor", "rmsprop"]),
        "weight_decay": draw.choice([0.0, 0.1]),
        "max_grad_norm": draw.choice([0.0, 0.5, 1.0]),
        "save_total_limit": draw.choice([1, 2, 3]),
        "train_sampling_strategy": draw.choice(["random", "sequential"]),
        "activation_checkpointing": draw.random() < 0.2,
        "label_smoothing_factor": draw.choice([0.0, 0.1]),
    }
    if by_steps:
        arguments |= {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": every, "eval_steps": every}
    if draw.random() < 0.2:
        arguments["max_steps"] = draw.choice([5, 7])
    batch, accumulation = draw.choice([1, 2, 3]), draw.choice([1, 2])
    arguments["dataloader_drop_last"] = draw.random() < 0.3 and batch * accumulation <= ROW_COUNT
    keeps = draw.choice(["last", "last", "best", "patience"])
    settings = {
        "lora_dropout": draw.choice([0.0, 0.1, 0.4]),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "max_tokens_per_microbatch": draw.choice(["auto", 64, 120]),
        "learning_rate": draw.choice([1e-3, 0.05]),
        "seed": draw.randrange(1000),
        "num_train_epochs": draw.choice([2, 3]),
        "cpu_kernels": str(draw.random() < 0.7).lower(),
        "trainer_args": json.dumps(arguments),
    }
    if keeps == "best" and draw.random() < 0.5:
        arguments |= {"save_strategy": "best"}
        settings["trainer_args"] = json.dumps(arguments)
    settings |= {"best": {"load_best_model": "true"}, "patience": {"early_stopping_patience": 1}}.get(keeps, {})
    if has_pictures:
        settings |= draw.choice([{}, {}, {"train_projector": "true"}, {"train_vision": "true"}])
    patches = {"scarce_memory": [60, draw.choice([1, 2])]} if draw.random() < 0.3 else {}
    return [f"--set={name}={value}" for name, value in settings.items()], patches


def of(folder):
    """All that must be the same: losses, gradients, validations, and the adapter."""
    steps = [(record.step, record.loss, record.grad_norm) for record in recorded(folder, StepRecord)]
    validations = [(record.step, record.loss) for record in recorded(folder, EvaluationRecord)]
    return steps, validations, (folder / "lora_model" / "adapter_model.safetensors").read_bytes()


def check(lab, number, has_pictures=False):
    draw = random.Random(f"cut {number}")
    words, patches = drawn_settings(draw, has_pictures)
    uncut = lab.train(words, patches)
    if "every lora_B" in uncut.errors or "cannot go through" in uncut.errors:
        return  # these settings train nothing, and are refused
    assert uncut.code == 0, f"{words}\n{uncut.errors[-1500:]}"
    wanted = of(lab.run)
    if draw.random() < 0.5:
        cut = lab.train(words, patches | {"stop_at": [draw.randrange(1, len(wanted[0]) + 1)]})
        assert cut.code in (0, 130), f"{words}\n{cut.errors[-1500:]}"
    else:
        cut = lab.train(words, patches, point=draw.randrange(uncut.calls), mode=draw.choice(["kill", "power", "torn"]))
        assert cut.code in (0, -9), f"{words}\n{cut.errors[-1500:]}"
    resumed = lab.train([*words, "--set=resume=auto"], patches, is_new=False)
    assert resumed.code == 0, f"{words}, cut {cut}\n{resumed.errors[-1500:]}"
    found = of(lab.run)
    assert found[2] == wanted[2], f"number {number}: another adapter from {words}, {patches}, cut {cut}"
    assert found[0] == wanted[0], f"number {number}: other steps from {words}, {patches}, cut {cut}"
    assert found[1] == wanted[1], f"number {number}: other validations from {words}, {patches}, cut {cut}"
