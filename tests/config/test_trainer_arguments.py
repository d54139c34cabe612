import dataclasses

from transformers import TrainingArguments

from lorakit.config.trainer_arguments import OWNED, _annotations, check_trainer_arguments


def test_the_names_read_from_the_source_are_the_class_s_own():
    own = {field.name for field in dataclasses.fields(TrainingArguments)}
    read = set(_annotations())
    assert {"warmup_steps", "lr_scheduler_type", "report_to", "fsdp"} <= read
    assert read <= own | {"gradient_checkpointing", "gradient_checkpointing_kwargs"}


def test_valid_arguments_have_no_faults():
    arguments = {
        "save_steps": 3,
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "report_to": ["tensorboard"],
        "max_grad_norm": 1,
        "fsdp": None,
        "activation_checkpointing": True,
    }
    assert check_trainer_arguments(arguments) == []


def test_a_misspelt_argument_is_named_with_its_neighbour():
    [(name, fault, remedy)] = check_trainer_arguments({"warmup_step": 3})
    assert name == "warmup_step"
    assert "is not a field" in fault
    assert remedy == "did you mean warmup_steps?"


def test_a_wrong_type_is_named():
    faults = check_trainer_arguments({"save_steps": "five", "max_grad_norm": True, "dataloader_num_workers": 1.5})
    assert [name for name, _, _ in faults] == ["save_steps", "max_grad_norm", "dataloader_num_workers"]


def test_arguments_that_are_settings_of_their_own_are_refused_with_the_setting():
    for name, remedy in OWNED.items():
        [(refused, fault, hint)] = check_trainer_arguments({name: 1})
        assert (refused, fault, hint) == (name, "is not set here", remedy)
