import pytest
from conftest import ROOT

from lorakit.config import Config, load_config
from lorakit.config.loading import make_config
from lorakit.errors import SettingsError


@pytest.fixture
def config_file(tmp_path):
    def write(text):
        file = tmp_path / "config.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(file)

    return write


def faults_of(file=None, flags=None, assignments=()):
    with pytest.raises(SettingsError) as caught:
        load_config(file, flags or {}, list(assignments))
    return str(caught.value)


def test_the_documented_defaults_hold_without_any_setting():
    config = load_config(None, {}, [])
    assert config.num_train_epochs == 10
    assert config.per_device_train_batch_size == 4
    assert config.gradient_accumulation_steps == 1
    assert config.learning_rate == "auto"
    assert (config.lora_r, config.lora_alpha, config.lora_dropout) == (16, 32, 0)
    assert config.target_modules == "all-linear"
    assert config.torch_dtype == "auto"
    assert config.output_dir == "./output"


def test_set_wins_over_a_flag_and_a_flag_over_the_file(config_file):
    file = config_file("lora_r: 1\nseed: 1\nlora_alpha: 1\n")
    config = load_config(file, {"lora_r": "2", "seed": "2"}, ["seed=3"])
    assert (config.lora_alpha, config.lora_r, config.seed) == (1, 2, 3)


def test_scientific_notation_is_a_number_everywhere(config_file):
    file = config_file("learning_rate: 5e-4\ntrainer_args: {adam_epsilon: 1e-7}\n")
    config = load_config(file, {}, ["lora_dropout=5e-2"])
    assert config.learning_rate == 5e-4
    assert config.trainer_args == {"adam_epsilon": 1e-7}
    assert config.lora_dropout == 0.05


def test_values_of_set_are_yaml():
    config = load_config(None, {}, ["target_modules=[q_proj,v_proj]", "validation_file=null", "system_prompt=a=b"])
    assert config.target_modules == ["q_proj", "v_proj"]
    assert config.validation_file is None
    assert config.system_prompt == "a=b"


def test_one_more_trainer_argument_keeps_those_of_the_file(config_file):
    file = config_file("trainer_args: {save_steps: 5, weight_decay: 0.1}\n")
    config = load_config(file, {}, ["trainer_args={save_steps: 3}"])
    assert config.trainer_args == {"save_steps": 3, "weight_decay": 0.1}


def test_all_faults_stand_in_one_message_with_place_and_remedy(config_file):
    file = config_file("lora_rnak: 8\nlora_r: 8.5\nlora_dropout: 2\ntorch_dtype: bf16\ntarget_modules: q_proj\n")
    text = faults_of(file, {"learning_rate": "fast"}, ["max_length=3", "nonsense"])
    assert f"{file} line 1: lora_rnak is not a setting" in text
    assert "did you mean lora_r?" in text
    assert f"{file} line 2: lora_r must be a whole number (found: 8.5)" in text
    assert f"{file} line 3: lora_dropout must be below 1 (found: 2)" in text
    assert "torch_dtype must be 'auto', 'float32', 'float16' or 'bfloat16'" in text
    assert "target_modules must be a list of layer names" in text
    assert "--learning_rate: learning_rate must be auto or a number (found: 'fast')" in text
    assert "--set max_length: max_length must be at least 8 (found: 3)" in text
    assert "--set nonsense: is not key=value" in text
    assert text.count("hint: ") == 8


@pytest.mark.parametrize(
    ("assignment", "wanted"),
    [
        ("lora_r=true", "must be a whole number"),
        ("lora_r=0", "must be at least 1"),
        ("use_original_model=maybe", "must be true or false"),
        ("learning_rate=.nan", "must be auto or a number"),
        ("learning_rate=0", "must be above 0"),
        ("learning_rate=null", "must be auto or a number"),
        ("output_dir=", "must be text"),
        ("output_dir=''", "must not be empty"),
        ("trainer_args=3", "must be a mapping"),
        ("thinking=often", "must be auto, true or false"),
        ("target_modules=[]", "must be a list of layer names"),
        ("target_modules=[1]", "must be a list of layer names"),
        ("advise_ranks=[8, 0]", "must be a list of ranks from 1 to 4096"),
        ("advise_ranks=[8.5]", "must be a list of ranks from 1 to 4096"),
        ("top_p=1.5", "must be at most 1"),
        ("temperature=-1", "must be at least 0"),
        ("model_hub=github", "must be 'huggingface' or 'modelscope'"),
        ("seed=[", "is not readable as YAML"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(assignment, wanted):
    assert wanted in faults_of(assignments=[assignment])


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("lora_r: 8\nlora_r: 9\n", "line 2: lora_r stands twice (first on line 1)"),
        ("- 1\n", "expected lines of `setting: value`"),
        ("lora_r: [\n", "is not readable as YAML"),
        ("a: *nothing\n", "is not readable as YAML"),
        (b"\xff\xfe\x00\x01", "is not UTF-8 text"),
        ("x: \x00", "is not readable as YAML"),
    ],
)
def test_a_broken_file_is_named_with_its_place(config_file, content, wanted):
    assert wanted in faults_of(config_file(content))


def test_a_duplicate_key_does_not_hide_what_else_is_wrong(config_file):
    text = faults_of(config_file("lora_rnk: 4\ntop_p: 7\ntop_p: 0.5\nlearning_rate: 1e-99x\n"))
    for fault in ("lora_rnk is not a setting", "top_p stands twice", "learning_rate must be auto or a number"):
        assert fault in text


def test_a_missing_file_is_named(tmp_path):
    assert "there is no such file" in faults_of(str(tmp_path / "none.yaml"))


def test_an_empty_file_means_defaults(config_file):
    assert load_config(config_file(""), {}, []).lora_r == 16


def test_a_byte_order_mark_is_no_part_of_the_first_key(config_file):
    assert load_config(config_file(b"\xef\xbb\xbflora_r: 4\n"), {}, []).lora_r == 4


@pytest.mark.parametrize(
    "file", [*sorted((ROOT / "configs").glob("*.yaml")), ROOT / "config.yaml"], ids=lambda f: f.name
)
def test_every_shipped_configuration_is_valid(file):
    load_config(str(file), {}, [])


@pytest.mark.parametrize(
    ("setting", "value", "example"),
    [
        ("map_fields", {"passage": 3}, "map_fields: {passage: input}"),
        ("map_fields", "input", "map_fields: {passage: input}"),
        ("ignore_fields", "passage", "ignore_fields: [explanation]"),
        ("add_tokens", "<doc>", "add_tokens: [<doc>, <cite>]"),
        ("trainer_args", [1], "trainer_args: {save_steps: 50"),
        ("train_file", [{"path": "x", "wieght": 1}], "weight: 0.5}"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_shown_as_it_is_written(setting, value, example):
    with pytest.raises(SettingsError) as caught:
        make_config({setting: value}, "here")
    assert example in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"validation_file": None}, False),
        ({}, True),
        ({"validation_file": None, "validation_share": 0.1}, True),
        ({"load_best_model": False}, False),
        ({"load_best_model": False, "early_stopping_patience": 2}, True),
        ({"trainer_args": {"load_best_model_at_end": False}}, False),
        ({"trainer_args": {"eval_strategy": "no"}}, False),
        ({"trainer_args": {"save_strategy": "no"}}, False),
        ({"trainer_args": {"save_strategy": "steps", "save_steps": 50}}, False),
        ({"trainer_args": {"save_strategy": "best"}}, True),
        (
            {"trainer_args": {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 9, "eval_steps": 3}},
            True,
        ),
        (
            {"trainer_args": {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 9, "eval_steps": 2}},
            False,
        ),
        ({"trainer_args": {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 0.1}}, False),
    ],
)
def test_the_best_adapter_is_kept_by_itself_where_validation_and_checkpoints_go_together(settings, kept):
    assert Config.model_validate({"validation_file": "validation.json"} | settings).keeps_best is kept


@pytest.mark.parametrize("word", ["no", '"no"', "false", "NO"])
def test_a_strategy_of_no_is_the_word_and_not_yamls_false(tmp_path, word):
    file = tmp_path / "config.yaml"
    file.write_text(f"trainer_args: {{save_strategy: {word}, eval_strategy: {word}, dataloader_drop_last: no}}\n")
    config = load_config(file, {"validation_file": "validation.json"}, [])
    assert config.trainer_args == {"save_strategy": "no", "eval_strategy": "no", "dataloader_drop_last": False}
    assert not config.keeps_best
