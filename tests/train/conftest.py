import pytest
from trained import ROWS

from lorakit.cli import main


@pytest.fixture
def command(model_folder, write_rows, tmp_path):
    """Return a function that runs ``--task train`` in a folder of its own and returns (exit code, folder)."""
    train_file = write_rows(ROWS, "train.json")
    validation_file = write_rows(ROWS[:2], "validation.json")

    def run(*extra, family="llama", folder="run", task="train"):
        output = tmp_path / folder
        settings = {
            "train_file": train_file,
            "validation_file": validation_file,
            "torch_dtype": "float32",
            "target_modules": "all-linear",
            "lora_dropout": "0",
            "max_new_tokens": "4",  # too few for general questions to be asked
            "lora_r": "8",
            "lora_alpha": "16",
            "learning_rate": "5e-4",
            "per_device_train_batch_size": "2",
        }
        flags = {word.removeprefix("--") for word in extra}  # --set would win over them
        assignments = [f"--set={name}={value}" for name, value in settings.items() if name not in flags]
        arguments = ["--model_name_or_path", str(model_folder(family)), "--output_dir", str(output)]
        empty = tmp_path / "empty.yaml"
        empty.write_text("")
        return main(["--task", task, "--config", str(empty), "--verbose", *arguments, *assignments, *extra]), output

    return run


@pytest.fixture(autouse=True)
def _without_curve(request, monkeypatch):
    """A run draws its curve only where a test asks for it: that is a quarter of the time of a tiny training."""
    if "draws_curve" not in request.fixturenames:
        monkeypatch.setattr("lorakit.train.curve.draw_loss_curve", lambda folder, base_loss: None)


@pytest.fixture
def draws_curve():
    """Draw the curve of a run, as every run does outside of tests."""
