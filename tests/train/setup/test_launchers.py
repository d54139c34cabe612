import pytest

from lorakit.errors import SettingsError
from lorakit.train.setup.launchers import check_launcher


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed keeps its checkpoints in pickles"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron-LM trains models of its own kind"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "a row is not split over processes"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "otherwise than torch_dtype says"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "what compile_layers decides about"),
        ("ACCELERATE_USE_FSDP", "true", "the settings say no fsdp"),
    ],
)
def test_what_a_launcher_would_change_in_silence_is_refused_by_name(variable, value, said):
    with pytest.raises(SettingsError, match=said) as caught:
        check_launcher({}, {variable: value})
    assert caught.value.message.startswith(f"{variable}={value}, as the launcher has set it: ")


def test_what_it_sets_by_default_is_taken():
    usual = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_USE_CPU": "True"}
    check_launcher({}, usual)
    check_launcher({"fsdp": True}, usual | {"ACCELERATE_USE_FSDP": "true"})


def test_deepspeed_is_refused_as_an_argument_too():
    with pytest.raises(SettingsError, match="trainer_args: DeepSpeed"):
        check_launcher({"deepspeed": "zero.json"}, {})
