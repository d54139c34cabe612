"""The table of bad input, by what is bad about it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import hostile_adapters
import hostile_data
import hostile_models
import hostile_settings
from bad_export_cases import EXPORTS
from bad_input import (
    ABSENT,
    Case,
    Lab,
    adapter,
    changing_tensors,
    config,
    cutting,
    data,
    model,
    other_weights,
    removing,
    renaming,
    setting,
    setting_json,
    writing,
)
from trained import ROWS

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
LONG = "x" * 5000
WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
NO_FILE = "is a device, a pipe or a socket"


def rows_of(*rows: object) -> str:
    return json.dumps(rows, ensure_ascii=False)


CONFIGS = [
    config("an unknown setting", "colour: red\n", "line 1", "colour is not a setting", "docs/settings.md"),
    config("a misspelt setting", "seed: 1\nlora_rnak: 8\n", "line 2", "did you mean lora_r?"),
    config("several faults", "lora_r: x\nseed: -1\n", "line 1: lora_r", "line 2: seed must be at least 0"),
    config("text for a number", "learning_rate: fast\n", "must be auto or a number (found: 'fast')"),
    config("a fraction for a whole number", "lora_r: 8.5\n", "must be a whole number"),
    config("text for true or false", "resume: perhaps\n", "line 1: resume must be"),
    config("a number for true or false", "train_vision: 1\n", "must be true or false"),
    config("text for whether to fit", "auto_fit: maybe\n", "auto_fit must be true or false"),
    config("a list for a number", "max_length: [1, 2]\n", "must be a whole number (found: [1, 2])"),
    config("a mapping for text", "output_dir: {a: b}\n", "must be text"),
    config(
        "a file of rows with an unknown key", "train_file: [{path: a, wight: 2}]\n", "train_file must be a path, or a"
    ),
    config("a value below its bounds", "lora_r: 0\n", "lora_r must be at least 1"),
    config("a value above its bounds", "top_p: 1.5\n", "top_p must be at most 1"),
    config("a number that is none", "learning_rate: .nan\n", "must be auto or a number"),
    config("a temperature beyond float32", "temperature: 1.0e-300\n", "temperature must be 0, or at least 0.001"),
    config("a penalty beyond float32", "repetition_penalty: 1.0e-300\n", "repetition_penalty must be at least 0.01"),
    config("an endless number", "temperature: .inf\n", "temperature must be"),
    config("a number of thousands of digits", f"seed: 0x{'f' * 5000}\n", "seed must be", "thousands of digits"),
    config("a decimal of thousands of digits", f"seed: {'9' * 5000}\n", "line 1", "cannot be read as int"),
    config("a setting that is empty", "output_dir: ''\n", "output_dir must not be empty"),
    config("a validation file that is empty", "validation_file: ''\n", "validation_file must be a path"),
    config("a date that is none", "template_date: soon\n", "must be auto, today or a date such as"),
    config("null where it means nothing", "train_file: null\n", "train_file must be a path"),
    config("an adapter's path that is a mapping", "lora_model_path: {a: 1}\n", "must be a path or a list of paths"),
    config("no target modules", "target_modules: []\n", "target_modules must be a list of layer names"),
    config("a setting twice", "lora_r: 8\nseed: 1\nlora_r: 4\n", "line 3: lora_r stands twice", "keep one of the two"),
    config("an alias without its anchor", "lora_r: *missing\n", "line 1", "undefined alias 'missing'"),
    config("an anchor inside itself", "trainer_args: &a {x: *a}\n", "line 1", "an anchor stands inside itself"),
    config("a billion laughs", LAUGHS, "more than 20000 values", "aliases"),
    config("a tag that would run code", "seed: !!python/object/apply:os.getcwd []\n", "!!python/object/apply"),
    config("a tag that would import a module", "seed: !!python/name:os.system\n", "line 1", "is not taken"),
    config("a tag that does not fit", "seed: !!int ''\n", "line 1", "cannot be read as int"),
    config("a date of a thirteenth month", "seed: 2024-13-01\n", "line 1", "cannot be read as timestamp"),
    config("a bracket left open", "seed: 1\ntarget_modules: [q_proj\n", "is not readable as YAML"),
    config("a tab for indentation", "trainer_args:\n\tsave_steps: 3\n", "line 2", "is not readable as YAML"),
    config("two documents", "seed: 1\n---\nseed: 2\n", "is not readable as YAML"),
    config("a list of settings", "- seed: 1\n", "expected lines of `setting: value`"),
    config("brackets without end", "seed: " + "[" * 600, "is nested too deeply"),
    config("a binary configuration", bytes(range(256)), "is not UTF-8 text"),
    config("a configuration in UTF-16", "seed: 1\n".encode("utf-16"), "is not UTF-8 text", "save it as UTF-8"),
    config("control characters", "seed: 1\0\n", "is not readable as YAML"),
    config("a configuration of megabytes", "#" * 2_000_000, "more than 1000000 bytes"),
    config("an unknown trainer argument", "trainer_args: {warmup_step: 3}\n", "warmup_step", "did you mean"),
    config("a trainer argument with a setting of its own", "trainer_args: {seed: 3}\n", "set seed as a setting"),
    config("a mistyped trainer argument", "trainer_args: {save_steps: [1]}\n", "save_steps must be"),
    config("trainer arguments that are no mapping", "trainer_args: 5\n", "trainer_args must be a mapping"),
    config("a key that is no name", "? [a, b]\n: 1\n", "is not readable as YAML"),
    setting("an unknown scheduler", "trainer_args={lr_scheduler_type: sideways}", "trainer_args", "sideways"),
    setting("a missing file of trainer arguments", "trainer_args={fsdp: true, fsdp_config: no.json}", "no.json"),
    setting("an engine that keeps pickles", "trainer_args={deepspeed: zero.json}", "DeepSpeed", "fsdp: true"),
    setting("an assignment without a value", "lora_r", "--set lora_r: is not key=value"),
    setting("an assignment that is no YAML", "lora_r=[", "--set lora_r", "is not readable as YAML"),
    setting("target modules that the model lacks", "target_modules=[query]", "no layer named query", "all-linear"),
    Case("an unknown flag", lambda lab: lab.command("train", "--lora_rank", "4"), ("--lora_rank", "--lora_r?")),
    Case("an unknown task", lambda lab: lab.command("fly"), ("--task", "fly", "--help")),
    Case("no task", lambda lab: [], ("--task", "--help")),
    Case(
        "nothing to evaluate",
        lambda lab: lab.command("evaluate", "--set=validation_file=null"),
        ("validation_file: is null", "name a file of rows"),
    ),
]

DATA = [
    data("an empty file", "", "is empty"),
    data("only white space", " \n\t\n", "is empty"),
    data("an empty list", "[]", "holds no rows"),
    data("a list in an object, empty", '{"data": []}', "holds no rows"),
    data(
        "in no certain encoding",
        b"\x00\xff\xfe\x81",
        "its encoding is in doubt",
        "save the file as UTF-8",
    ),
    data("UTF-16, damaged", rows_of(ROWS[0]).encode("utf-16") + b"a", "line 1: is not utf-16-le"),
    data("an encoding in doubt", "text,target\nWann?,1998 gegründet\n".encode("cp1252"), "in doubt", "encoding: "),
    data("UTF-8 with a damaged letter", "text,target\n问题一二,答案\n问".encode() + b"\xff\n", "line 3: is UTF-8, but"),
    data("truncated JSON", rows_of(*ROWS)[:-20], "line 1 column", "is the file complete?"),
    data("a number", "42", "is not JSON, JSON Lines, CSV or Parquet"),
    data("prose", "The quick brown fox\njumps.\n", "is not JSON, JSON Lines, CSV or Parquet"),
    data("rows in rows", rows_of(ROWS), "item 1: is not an object with fields (found: list)"),
    data("text for rows", rows_of("a", "b"), "item 1 and all others: is not an object with fields (found: str)"),
    data("brackets without end", "[" * 100_000, "is nested too deeply"),
    data("braces without end", '{"a":' * 100_000, "is nested too deeply"),
    data("one huge row", rows_of({"text": "a", "target": "b " * 100_000}), "item 1", "raise max_length"),
    data("an empty answer", rows_of({"text": "a", "target": "  "}), 'item 1: "target" is empty'),
    data("an answer that is null", rows_of({"text": "a", "target": None}), '"target" is not text (found: null)'),
    data(
        "an answer that is a list",
        rows_of({"text": "a", "target": ["b", {"c": 1}]}),
        '"target" is not text (found: list)',
    ),
    data("an answer that is no number", '[{"text": "a", "target": NaN}]', '"target" is not text (found: nan)'),
    data("half a character", '[{"text": "a", "target": "\\ud83d"}]', "unpaired surrogate"),
    data("other field names", rows_of({"q": "a", "a": "b"}), "are missing (found: q, a)"),
    data("a misnamed answer", rows_of({"text": "a", "answr": "b"}), "rename the answer's field, or set target_field"),
    data("a key twice", '[{"text": "a", "text": "b", "target": "c"}]', 'item 1: "text" stands twice'),
    data("a key twice in an object of one row", '{"text": "a", "text": "b", "target": "c"}', '"text" stands twice'),
    data("a number of thousands of digits", f'[{{"text": {"9" * 5000}, "target": "b"}}]', "thousands of digits"),
    data("a list followed by lines", rows_of(ROWS[0]) + '\n{"text": "a", "target": "b"}\n', "line 2", "Extra data"),
    data("lines of another format", '{"text": "a",\ntext,target\n', "no usable row among 2", "line 2"),
    data("a control token in the text", rows_of({"text": "a", "target": "b<|eot_id|>"}), "control token '<|eot_id|>'"),
    data("turns that are a number", rows_of({"messages": 5}), '"messages" is not a list of turns'),
    data("turns that are text", rows_of({"messages": ["hello"]}), "turn 1 is not an object"),
    data("a role that is a list", rows_of({"messages": [{"role": ["user"], "content": "a"}]}), "has the role ['user']"),
    data("an unknown role", rows_of({"messages": [{"role": "narrator", "content": "a"}]}), "has the role 'narrator'"),
    data("only questions", rows_of({"messages": [{"role": "user", "content": "a"}]}), "has no answer"),
    data("a history that is a number", rows_of({"instruction": "a", "output": "b", "history": 5}), '"history" is not'),
    data("a picture for a model of text", rows_of({"text": "a", "target": "b", "image": "x.png"}), "takes text only"),
    data(
        "NaN in CSV",
        "text,target\na,NaN\nb,nan\n",
        'row 2 and all others: "target" is not text (found: nan)',
        file="bad.csv",
    ),
    data("an empty cell in CSV", "text,target\na,\n", 'row 2: "target" is empty', file="bad.csv"),
    data("a quotation mark left open", 'text,target\n"a,b\n', "row 2: is not valid CSV", file="bad.csv"),
    data("a quotation mark left open in the header", '"text,target\na,b\n', "is not valid CSV", file="bad.csv"),
    data("a column twice", "text,target,text\na,b,c\n", 'header: "text" stands twice', file="bad.csv"),
    data("a header alone", "text,target\n", "holds no rows", file="bad.csv"),
    data("cells without a header", "text,target\na,b,c\n", "has 3 cells where the header has 2", file="bad.csv"),
    data("a damaged Parquet file", b"PAR1" + bytes(100), "is a damaged Parquet file", file="bad.parquet"),
    Case(
        "bad rows to evaluate on",
        lambda lab: lab.command(
            "evaluate", "--use_original_model", f"--set=validation_file={lab.write('bad.json', '[')}"
        ),
        ("bad.json", "is not valid JSON"),
    ),
    Case(
        "bad rows to preview",
        lambda lab: lab.command("preview", f"--set=train_file={lab.write('bad.json', '[5]')}"),
        ("bad.json", "no usable row among 1"),
    ),
]


def _without_vocabulary(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"] |= {"vocab": {}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def _with_damaged_index(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text("{")


def _with_more_tokens(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"more{number}": len(vocabulary) + number for number in range(50)}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


MODELS = [
    model("a config.json that is not JSON", writing("config.json", "{"), "its config.json is damaged"),
    model("a config.json that is a list", writing("config.json", "[]"), "its config.json is damaged"),
    model("a config.json nested without end", writing("config.json", "[" * 100_000), "its config.json is damaged"),
    model("a config.json that is not text", writing("config.json", b"\xff\xfe\x00"), "its config.json is damaged"),
    model("a config.json without a family", writing("config.json", "{}"), "model_type is missing"),
    model("a family that is a list", setting_json("config.json", model_type=["llama"]), "model_type is not text"),
    model("an unknown family", setting_json("config.json", model_type="sphinx"), "sphinx"),
    model("sizes that are text", setting_json("config.json", hidden_size="large"), "hidden_size"),
    model("no weights", removing(WEIGHTS), "there is no *.safetensors"),
    model(
        "weights that are a pickle", renaming(WEIGHTS, "pytorch_model.bin"), "a pickle (pytorch_model.bin)", "convert"
    ),
    model("weights without a byte", writing(WEIGHTS, b""), "the model cannot be loaded"),
    model("a corrupt header", writing(WEIGHTS, b"\x10" + bytes(7) + b"x" * 16), "the model cannot be loaded"),
    model("a header of exabytes", writing(WEIGHTS, b"\xff" * 8 + b"{}"), "the model cannot be loaded"),
    model("truncated weights", cutting(WEIGHTS, 2000), "the model cannot be loaded", "fetch them again"),
    model(
        "a tensor that is missing", changing_tensors(WEIGHTS, lambda t: t.pop("model.norm.weight")), "lack 1 tensors"
    ),
    model(
        "tensors of other shapes", setting_json("config.json", intermediate_size=64), "other shapes than config.json"
    ),
    model("a list of weight files that is damaged", _with_damaged_index, "the model cannot be loaded"),
    model("no tokenizer", removing("tokenizer.json", "tokenizer_config.json"), "its tokenizer", "needs tokenizer.json"),
    model("a damaged tokenizer", cutting("tokenizer.json", 500), "its tokenizer cannot be loaded"),
    model("a tokenizer without a vocabulary", _without_vocabulary, "its tokenizer"),
    model("a tokenizer of another model", _with_more_tokens, "its tokenizer has", "belong to another model"),
    model(
        "a template that is no Jinja",
        writing("chat_template.jinja", "{% for"),
        "chat template",
        "mend chat_template.jinja",
    ),
    model("a template that loses answers", writing("chat_template.jinja", "hello"), "loses the text of answers"),
    model(
        "a template that reaches for Python's inside",
        writing("chat_template.jinja", "{{ messages.__class__.__mro__[1].__subclasses__() }}"),
        "chat template",
    ),
    model("an end that is no text", setting_json("tokenizer_config.json", eos_token=""), "token"),
    model("a tokenizer without an end", setting_json("tokenizer_config.json", eos_token=ABSENT), "no end-of-sequence"),
    model(
        "a model that needs its own code",
        setting_json("config.json", model_type="own", auto_map={"AutoConfig": "own.Own"}),
        "which lorakit does not run",
        "trust_remote_code: true",
    ),
    model(
        "a tokenizer that needs its own code",
        setting_json("tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]}),
        "which lorakit does not run",
        "trust_remote_code: true",
    ),
    model(
        "attention that would be fetched as code",
        setting_json("config.json", attn_implementation="somebody/kernels"),
        "which lorakit does not run",
    ),
    model("an adapter for a model", writing("adapter_config.json", "{}"), "holds an adapter", "lora_model_path"),
    Case(
        "a folder that is no model",
        lambda lab: lab.command("train", "--model_name_or_path", str(lab.folder)),
        ("model_name_or_path", "holds no config.json", "three ways"),
    ),
    Case(
        "a model that is not there",
        lambda lab: lab.command("train", "--model_name_or_path", "./none"),
        ("model_name_or_path: there is no folder './none'", "three ways"),
    ),
    Case(
        "a model that is a file",
        lambda lab: lab.command("train", "--model_name_or_path", lab.write("weights.gguf", "x")),
        ("weights.gguf", "is a file, not a folder"),
    ),
    Case(
        "a model of a user who is not there",
        lambda lab: lab.command("train", "--model_name_or_path", "~nobodyhere/model"),
        ("there is no folder '~nobodyhere/model'",),
    ),
    Case(
        "a name longer than any",
        lambda lab: lab.command("train", "--model_name_or_path", "./" + LONG),
        ("model_name_or_path: there is no folder",),
    ),
]

ADAPTERS = [
    adapter(
        "an adapter that is not there", removing("adapter_config.json"), "there is no adapter here", "--task train"
    ),
    adapter("adapter weights that are missing", removing(ADAPTER_WEIGHTS), "is missing", "copy the adapter's folder"),
    adapter(
        "truncated adapter weights",
        cutting(ADAPTER_WEIGHTS, 1500),
        "adapter_model.safetensors is damaged",
        "copy the adapter's folder",
    ),
    adapter(
        "truncated weights of an adapter with tokens of its own",
        lambda folder: (_with_more_tokens(folder), cutting(ADAPTER_WEIGHTS, 1500)(folder)),
        "its weights cannot be read",
        "copy the adapter's folder again",
    ),
    adapter("adapter weights without a byte", writing(ADAPTER_WEIGHTS, b""), "adapter_model.safetensors is damaged"),
    adapter(
        "adapter weights that are a pickle",
        renaming(ADAPTER_WEIGHTS, "adapter_model.bin"),
        "a pickle (adapter_model.bin)",
        "convert it to safetensors",
    ),
    adapter(
        "an adapter tensor that is missing",
        changing_tensors(ADAPTER_WEIGHTS, lambda tensors: tensors.pop(min(tensors))),
        "lacks 1 of its tensors",
    ),
    adapter(
        "adapter settings that are not JSON", writing("adapter_config.json", "{"), "adapter_config.json", "damaged"
    ),
    adapter("adapter settings without a kind", writing("adapter_config.json", "{}"), "peft_type is missing"),
    adapter("an adapter of another kind", setting_json("adapter_config.json", peft_type="IA3"), "is a IA3 adapter"),
    adapter("an adapter of another rank", setting_json("adapter_config.json", r=3), "does not fit"),
    adapter("a rank that is text", setting_json("adapter_config.json", r="many"), "does not fit"),
    adapter("a record that is not JSON", writing("lorakit.json", '{"base_model":'), "lorakit.json: is damaged"),
    adapter("a record that is not text", writing("lorakit.json", b"\xff\xfe\x00"), "lorakit.json: is damaged"),
    adapter("a record nested without end", writing("lorakit.json", "[" * 100_000), "lorakit.json: is damaged"),
    adapter("a record that lacks a field", setting_json("lorakit.json", end_of_turn=ABSENT), "end_of_turn"),
    adapter("a record with a mistyped field", setting_json("lorakit.json", rendering=5), "rendering"),
    adapter("a record with pixels that are text", setting_json("lorakit.json", pixels="many"), "pixels"),
    adapter(
        "another stop token",
        setting_json("lorakit.json", end_of_turn="<|end|>"),
        "to end its answers with '<|end|>'",
        "as they were in training",
    ),
    Case(
        "an adapter of another base",
        lambda lab: lab.command(
            "inference",
            *("--model_name_or_path", str(other_weights(lab.folder / "other"))),
            *("--lora_model_path", str(lab.adapter_folder)),
        ),
        ("whose weights are not those of", "set model_name_or_path"),
    ),
    Case(
        "an adapter that was never trained",
        lambda lab: lab.command("evaluate"),
        ("lora_model", "there is no adapter here", "--use_original_model"),
    ),
    Case(
        "an adapter that is a file",
        lambda lab: lab.command("inference", "--lora_model_path", lab.write("adapter.bin", "x")),
        ("adapter.bin", "there is no adapter here"),
    ),
]


def _empty(lab: Lab) -> str:
    (lab.folder / "empty").mkdir(exist_ok=True)
    return str(lab.folder / "empty")


def _link_to_itself(lab: Lab) -> str:
    os.symlink("circle.json", lab.folder / "circle.json")
    return str(lab.folder / "circle.json")


PATHS = [
    Case(
        "an output folder that is a file",
        lambda lab: lab.command("train", "--output_dir", lab.write("taken", "")),
        ("output_dir", "taken", "choose another folder"),
    ),
    Case(
        "an output folder below a file",
        lambda lab: lab.command("evaluate", "--output_dir", lab.write("taken", "") + "/below"),
        ("output_dir", "cannot be written"),
    ),
    Case(
        "an output folder that is a device",
        lambda lab: lab.command("train", "--output_dir", "/dev/null"),
        ("output_dir", "/dev/null", "choose another folder"),
    ),
    Case(
        "an output folder with a name too long",
        lambda lab: lab.command("train", "--output_dir", LONG),
        ("output_dir", "cannot be written"),
    ),
    Case(
        "an output folder a thousand folders deep",
        lambda lab: lab.command("train", "--output_dir", "a/" * 1900),
        ("output_dir", "cannot be written"),
    ),
    Case(
        "a train file that is a folder without rows",
        lambda lab: lab.command("train", f"--set=train_file={_empty(lab)}"),
        ("is a folder without files of rows", "their names end in"),
    ),
    Case(
        "a validation file that is a folder without rows",
        lambda lab: lab.command("train", f"--set=validation_file={_empty(lab)}"),
        ("is a folder without files of rows", "their names end in"),
    ),
    setting("a train file that is not there", "train_file=none.json", "none.json: there is no such file", "train_file"),
    setting("a train file that never ends", "train_file=/dev/zero", f"/dev/zero: {NO_FILE}"),
    setting("a train file with a name too long", f"train_file={'x' * 600}.json", "cannot be read (File name too long)"),
    setting("a train file with NUL in its name", r'train_file="a\0b"', "--set train_file", "without NUL characters"),
    setting("an output folder with NUL in its name", r'output_dir="a\0b"', "output_dir must be without NUL"),
    setting("a model with NUL in its name", r'model_name_or_path="a\0b"', "model_name_or_path must be without NUL"),
    setting("an adapter with NUL in its name", r'lora_model_path="a\0b"', "lora_model_path must be without NUL"),
    Case(
        "a train file that is a link to itself",
        lambda lab: lab.command("train", f"--set=train_file={_link_to_itself(lab)}"),
        ("circle.json", "cannot be read"),
    ),
    Case(
        "a configuration that is not there",
        lambda lab: lab.command("train", "--config", "none.yaml"),
        ("none.yaml: there is no such file", "--config"),
    ),
    Case(
        "a configuration that is a folder",
        lambda lab: lab.command("train", "--config", str(lab.folder)),
        ("is a folder", "--config"),
    ),
    Case(
        "a configuration that never ends",
        lambda lab: lab.command("train", "--config", "/dev/zero"),
        (f"/dev/zero: {NO_FILE}", "--config"),
    ),
    Case(
        "a configuration with NUL in its name",
        lambda lab: lab.command("train", "--config", "a\0b"),
        ("is not a possible file name", "--config"),
    ),
    Case(
        "a name that is not text",
        lambda lab: lab.command("train", "--set=train_file=\udcff.json"),
        ("--set train_file", "is not readable as YAML"),
    ),
]


def _asking(name: str, *words: str, **settings: str) -> Case:
    """A case of a question to the base."""
    asked = [f"--set={key}={value}" for key, value in settings.items()]
    return Case(name, lambda lab: lab.command("inference", "--use_original_model", *asked), words)


PATHS += [
    _asking("questions in a folder without a name", "question_file: '/'", "set answer_file", question_file="/"),
    _asking("questions in the folder above", "question_file: '..'", "set answer_file", question_file=".."),
    _asking("questions that are not there", "there is no such file", "question_file", question_file="none.json"),
    _asking("a picture for a model of text", "image: has a picture", "leave it out", image="x.png", question="a"),
    Case(
        "the root of all folders to export into",
        lambda lab: lab.command("merge", "--lora_model_path", str(lab.adapter_folder), "--export_dir", "/"),
        ("export_dir: '/' is no folder of its own", "an empty or a new folder"),
    ),
]


def _push(lab: Lab, *more: str) -> list[str]:
    return lab.command("push", "--push_to", "alice/my-lora", *more)


def _pushed_folder(lab: Lab, name: str, **files: str) -> list[str]:
    folder = lab.folder / name
    folder.mkdir()
    for stem, content in files.items():
        (folder / stem.replace("_json", ".json").replace("_safetensors", ".safetensors")).write_text(content)
    return _push(lab, "--export_dir", str(folder))


def _push_to(name: str) -> Case:
    return Case(
        f"a repository called {name[:20]!r}",
        lambda lab: lab.command("push", "--lora_model_path", str(lab.adapter_folder), "--push_to", name),
        ("push_to", "is not the name of a repository", "owner/name"),
    )


PUSHES = [
    Case(
        "nowhere to send to",
        lambda lab: lab.command("push", "--lora_model_path", str(lab.adapter_folder)),
        ("push_to: is null", "--push_to owner/name"),
    ),
    *map(_push_to, ("my-lora", "https://huggingface.co/alice/my-lora", "alice/my lora", "../x", "a/b/c", "a/b--c")),
    _push_to("alice/" + "x" * 200),
    Case("nothing trained yet", _push, ("lora_model", "no such folder to send", "--lora_model_path")),
    Case(
        "a folder without weights",
        lambda lab: _pushed_folder(lab, "empty", config_json="{}"),
        ("empty", "neither an adapter nor a model"),
    ),
    Case(
        "a folder that was never proven",
        lambda lab: _pushed_folder(lab, "merged.unproven", model_safetensors="x", proof_json='{"proven": true}'),
        ("merged.unproven", "has not been proven"),
    ),
    Case(
        "a folder that is proven wrong",
        lambda lab: _pushed_folder(lab, "merged", model_safetensors="x", proof_json='{"proven": false}'),
        ("proof.json", "is not what it was made from"),
    ),
    Case(
        "a proof that is damaged",
        lambda lab: _pushed_folder(lab, "merged", model_safetensors="x", proof_json="{"),
        ("proof.json", "is damaged", "merge or export it again"),
    ),
    Case(
        "an access token among what is sent",
        lambda lab: _pushed_folder(lab, "leak", model_safetensors="x", config_json='{"t": "hf_abcdefghijklmnopqrstu"}'),
        ("config.json", "holds what has the shape of an access token, so nothing is sent"),
    ),
    Case(
        "two adapters to send",
        lambda lab: _push(lab, "--lora_model_path", str(lab.adapter_folder), f"other={lab.adapter_folder}"),
        ("lora_model_path", "one adapter is sent at a time", "--task merge"),
    ),
    Case(
        "an adapter with a weight to send",
        lambda lab: _push(lab, "--lora_model_path", f"{lab.adapter_folder}:0.5"),
        ("lora_model_path", "as it is"),
    ),
    Case(
        "nobody to ask whether to send",
        lambda lab: _push(lab, "--lora_model_path", str(lab.adapter_folder)),
        ("nothing was sent", "push_confirmed=true"),
    ),
]

ALL = [
    Case(f"{group}: {case.name}", case.prepare, case.words)
    for group, cases in (
        ("config", CONFIGS),
        ("data", DATA),
        ("model", MODELS),
        ("adapter", ADAPTERS),
        ("hostile adapter", hostile_adapters.ALL),
        ("hostile data", hostile_data.ALL),
        ("hostile model", hostile_models.ALL),
        ("hostile setting", hostile_settings.ALL),
        ("path", PATHS),
        ("push", PUSHES),
        ("export", EXPORTS),
    )
    for case in cases
]
