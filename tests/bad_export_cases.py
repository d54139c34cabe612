"""Bad input to merging and exporting, and several adapters where one is wanted."""

from bad_input import Case, Lab
from random_adapters import save_random_adapter


def _merge(lab: Lab, *more: str) -> list[str]:
    return lab.command("merge", "--lora_model_path", str(lab.adapter_folder), *more)


def _export(lab: Lab, *more: str) -> list[str]:
    return lab.command("export", "--lora_model_path", str(lab.adapter_folder), *more)


def _folder_with_a_thesis(lab: Lab) -> str:
    (lab.folder / "mine").mkdir()
    (lab.folder / "mine" / "thesis.txt").write_text("years of work")
    return str(lab.folder / "mine")


def _opt_adapter(lab: Lab) -> object:
    return save_random_adapter(lab.model_folder("opt"), lab.folder / "opt-adapter")


EXPORTS = [
    Case("nothing to merge", lambda lab: lab.command("merge"), ("there is no adapter here", "--use_original_model")),
    Case(
        "the base alone to merge",
        lambda lab: _merge(lab, "--use_original_model"),
        ("use_original_model", "there is no adapter to write", "leave it out"),
    ),
    Case(
        "a folder of somebody else's files to merge into",
        lambda lab: _merge(lab, "--export_dir", _folder_with_a_thesis(lab)),
        ("export_dir", "holds other files", "an empty or a new folder"),
    ),
    Case(
        "a file to merge into",
        lambda lab: _merge(lab, "--export_dir", lab.write("file.txt", "x")),
        ("export_dir", "is a file", "an empty or a new folder"),
    ),
    Case(
        "a folder below a file to merge into",
        lambda lab: _merge(lab, "--export_dir", lab.write("file.txt", "x") + "/below"),
        ("export_dir", "cannot be written", "choose another folder"),
    ),
    Case(
        "a GGUF format for safetensors",
        lambda lab: _merge(lab, "--set=export_dtype=q8_0"),
        ("export_dtype", "is for GGUF files", "f32, f16, bf16 or auto"),
    ),
    Case(
        "a number format nobody has",
        lambda lab: _merge(lab, "--set=export_dtype=fp8"),
        ("export_dtype must be", "the default is auto"),
    ),
    Case("no rows to prove with", lambda lab: _merge(lab, "--set=validation_file=nowhere.json"), ("nowhere.json",)),
    Case(
        "a merge into quantised weights",
        lambda lab: _merge(lab, "--set=load_in_8bit=true"),
        ("load_in_8bit", "full weights", "load_in_8bit: false"),
    ),
    Case(
        "two adapters of one name",
        lambda lab: _merge(lab, str(lab.adapter_folder)),
        ("lora_model_path", "two adapters are called", "NAME=PATH"),
    ),
    Case(
        "an adapter with a weight that is no number",
        lambda lab: lab.command("inference", "--lora_model_path", f"{lab.adapter_folder}:nan"),
        ("lora_model_path", "the weight of", "0.7"),
    ),
    Case(
        "two adapters to evaluate",
        lambda lab: lab.command("evaluate", "--lora_model_path", f"a={lab.adapter_folder}", f"b={lab.adapter_folder}"),
        ("lora_model_path", "takes one adapter", "--task merge"),
    ),
    Case("a format to export that there is not", lambda lab: _export(lab, "--format", "onnx"), ("format must be",)),
    Case(
        "a combination that there is not",
        lambda lab: _merge(lab, "--set=combination=mean"),
        ("combination must be", "the default is cat"),
    ),
    Case("nothing kept in a combination", lambda lab: _merge(lab, "--set=density=0"), ("density must be above 0",)),
    Case(
        "names of tensors that fall together",
        lambda lab: _export(
            lab,
            "--format=peft",
            '--set=adapter_keys={base_model.model.model.layers.0.: "x.", base_model.model.model.layers.1.: "x."}',
        ),
        ("adapter_keys", "two tensors one name", "longer beginnings"),
    ),
    Case(
        "a family that llama.cpp does not get",
        lambda lab: _export(
            lab, "--model_name_or_path", str(lab.model_folder("opt")), "--lora_model_path", str(_opt_adapter(lab))
        ),
        ("opt",),
    ),
]
