import pytest

from lorakit.config import make_config
from lorakit.errors import SettingsError
from lorakit.train.setup.learning_rate import automatic_rate, steps_of, with_rate


@pytest.mark.parametrize(
    ("size", "family", "steps", "rate"),
    [
        (576, "llama", 80, 2e-3),  # 5e-4 * (2000 / 576) ** 0.781 = 1.32e-3, times 1.5 = 1.98e-3
        (576, "llama", 1000, 1.3e-3),
        (2000, "llama", 1000, 5e-4),
        (4096, "llama", 1000, 2.9e-4),
        (16_384, "llama", 1000, 1e-4),
        (2000, "qwen3", 1000, 5e-4),
        (4096, "qwen3", 1000, 4.7e-4),
        (1024, "qwen2", 99, 7.9e-4),
        (64, "gpt2", 10, 2e-3),
    ],
)
def test_the_published_rule(size, family, steps, rate):
    assert automatic_rate(size, family, steps) == rate


@pytest.mark.parametrize(
    "model",
    [
        {"model_type": "llama", "hidden_size": 2000},
        {"model_type": "gpt2", "n_embd": 2000},
        {"model_type": "qwen3_vl", "text_config": {"hidden_size": 2000}, "hidden_size": 7},
    ],
)
def test_the_width_is_found_wherever_a_family_writes_it(model, capsys):
    config = make_config({"learning_rate": "auto"}, "test")
    assert with_rate(config, model, 1000).learning_rate == 5e-4
    assert "learning_rate auto: 0.0005" in capsys.readouterr().err


def test_a_rate_that_was_set_stays(capsys):
    config = make_config({"learning_rate": 3e-3}, "test")
    assert with_rate(config, {}, 10) is config
    assert capsys.readouterr().err == ""


def test_a_model_that_does_not_say_its_width_is_a_clear_fault():
    config = make_config({"learning_rate": "auto"}, "test")
    with pytest.raises(SettingsError, match="no hidden_size"):
        with_rate(config, {"model_type": "new"}, 10)


@pytest.mark.parametrize(
    ("settings", "rows", "processes", "steps"),
    [
        ({"per_device_train_batch_size": 2, "num_train_epochs": 10}, 15, 1, 80),
        ({"per_device_train_batch_size": 2, "num_train_epochs": 10}, 16, 2, 40),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 1.5}, 16, 1, 3),
        ({"trainer_args": {"max_steps": 7}}, 1000, 1, 7),
    ],
)
def test_steps_are_counted_as_the_trainer_does(settings, rows, processes, steps):
    assert steps_of(make_config(settings, "test"), rows, processes) == steps
