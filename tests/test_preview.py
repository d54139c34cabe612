from conftest import TRAIN_FILE, VALIDATION_FILE

from lorakit.cli import main


def preview(model_folder, *extra):
    return main(["--task", "preview", "--model_name_or_path", str(model_folder("qwen3")), *extra])


def test_trained_tokens_are_marked_and_rows_counted(model_folder, capsys):
    files = (f"--set=train_file={TRAIN_FILE}", f"--set=validation_file={VALIDATION_FILE}")
    assert preview(model_folder, *files) == 0
    shown = capsys.readouterr().out
    assert "train.json item 1: " in shown
    assert "[<|im_end|>]⏎" in shown
    assert "<|im_start|>|" in shown
    assert "[每]" in shown or "[每天]" in shown
    counts = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in shown.splitlines() if "│" in line}
    assert counts["rows"] == "15"
    assert counts["duplicates"] == counts["dropped"] == counts["cut"] == "0"
    assert counts["also in the other file"] == "0"


def test_what_is_wrong_with_the_rows_is_named(model_folder, write_rows, capsys):
    row = {"text": "q", "target": "a"}
    train = write_rows([row, row, {"text": "q"}, {"text": "问" * 300, "target": "a"}], "train.json")
    validation = write_rows([row], "validation.json")
    preview(model_folder, f"--set=train_file={train}", f"--set=validation_file={validation}", "--set=max_length=60")
    shown = capsys.readouterr().out
    assert f'not used:\n  {train} item 3: "target" is missing' in shown
    assert f"cut at the beginning of the prompt:\n  {train} item 4" in shown
    assert f"duplicate of an earlier row:\n  {train} item 2" in shown
    assert f"so its score proves nothing:\n  {validation} item 1" in shown


def test_no_weights_are_needed(model_folder, write_rows, tmp_path, capsys):
    import shutil

    folder = shutil.copytree(model_folder("qwen3"), tmp_path / "copied")
    (folder / "model.safetensors").unlink()
    rows = write_rows([{"text": "q", "target": "a"}])
    options = (f"--set=train_file={rows}", "--set=validation_file=null")
    assert main(["--task", "preview", "--model_name_or_path", str(folder), *options]) == 0
    assert "[a]" in capsys.readouterr().out
