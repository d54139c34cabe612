"""What trainer_args ask for is tried before a model is loaded."""

import pytest
import torch
from transformers import TrainingArguments

from lorakit.config import Config
from lorakit.engine import choose_dtype
from lorakit.errors import SettingsError
from lorakit.train.setup.arguments import training_arguments
from lorakit.train.setup.rehearsal import check_schedule

DEVICE = torch.device("cpu")

FAULTS = [
    ({"metric_for_best_model": "accuracy"}, "accuracy is not measured", "eval_loss"),
    ({"lr_scheduler_type": "cosine_with_min_lr"}, "cosine_with_min_lr cannot be used", "min_lr_rate: 0.1"),
    ({"lr_scheduler_type": "cosine_warmup_with_min_lr"}, "cannot be used", "min_lr_rate: 0.1"),
    ({"lr_scheduler_type": "warmup_stable_decay"}, "cannot be used", "num_decay_steps: 10"),
    ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"min_lr": 1e-5}}, "cannot be used", "cosine_with_min_lr"),
    ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"pwoer": 2}}, "pwoer", "lr_scheduler_kwargs"),
    ({"optim": "galore_adamw"}, "optim", "optim"),
    ({"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"power": 2}}, "would change nothing", "leave them out"),
    ({"optim_args": "eps=1e-6"}, "optim_args: eps=1e-6 would change nothing", "leave it out"),
    ({"report_to": "evil"}, "report_to: ['evil'] cannot be used", "leave report_to out"),
    ({"report_to": "wandb"}, "report_to: ['wandb'] cannot be used", "install its package"),
    ({"dataloader_num_workers": 1_000_000}, "1000000 are more than", "leave it out"),
]
WITHOUT_VALIDATION = [
    ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "requires an eval strategy", "TrainingArguments"),
    ({"save_strategy": "best"}, "waits for a validation", "validation_file"),
]
GOOD = [
    {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
    {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 10}},
    {"lr_scheduler_type": "reduce_lr_on_plateau"},
    {"lr_scheduler_type": "inverse_sqrt"},
    {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}},
    {"optim": "adafactor"},
    {"optim": "sgd", "optim_args": "momentum=0.9"},
    {"save_strategy": "best"},
    {"metric_for_best_model": "loss"},
]


def arguments_of(trainer_args, **settings):
    config = Config(trainer_args=trainer_args, learning_rate=1e-4, **settings)
    return training_arguments(config, choose_dtype("float32", DEVICE, False), DEVICE)


@pytest.mark.parametrize(("trainer_args", "fault", "remedy"), FAULTS)
def test_what_would_fail_after_an_epoch_is_refused_with_the_remedy(trainer_args, fault, remedy):
    with pytest.raises(SettingsError, match="trainer_args") as refusal:
        arguments_of(trainer_args)
    assert fault in refusal.value.message
    assert remedy in str(refusal.value.hint)


@pytest.mark.parametrize(("trainer_args", "fault", "remedy"), WITHOUT_VALIDATION)
def test_what_waits_for_a_validation_needs_one(trainer_args, fault, remedy):
    with pytest.raises(SettingsError, match=fault) as refusal:
        arguments_of(trainer_args, validation_file=None)
    assert remedy in str(refusal.value.hint)


@pytest.mark.parametrize("trainer_args", GOOD)
def test_what_can_be_built_is_taken(trainer_args):
    arguments_of(trainer_args)


def test_the_best_adapter_is_saved_whenever_it_gets_better(command):
    code, folder = command("--num_train_epochs", "2", "--set", "trainer_args={save_strategy: best}")
    assert code == 0
    assert list(folder.glob("checkpoint-*"))


@pytest.mark.parametrize(("warmup", "steps"), [(2, 2), (5, 2)])
@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial", "constant_with_warmup"])
def test_a_schedule_that_only_warms_up_is_gone_through_or_refused(tmp_path, name, warmup, steps):
    arguments = TrainingArguments(str(tmp_path), lr_scheduler_type=name, warmup_steps=warmup, use_cpu=True)
    if (name, warmup) == ("polynomial", steps):  # it divides by the steps that are left
        with pytest.raises(SettingsError, match="cannot go through 2 steps, 2 of them to warm up"):
            check_schedule(arguments, steps)
    else:
        check_schedule(arguments, steps)
