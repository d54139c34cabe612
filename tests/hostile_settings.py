"""Bad input: settings that would give something away, or ask for what no machine has."""

from __future__ import annotations

from bad_input import Case, config, setting

TOKEN = "hf_" + "aB3dEfGh" * 4
KEY = "sk-" + "0123456789abcdef" * 2
LOGIN = "https://me:hunter2hunter2@example.org/x"
NO_UPLOAD = ("is not set here", "--task push")
SHAPE = ("has the shape of an access token", "hf auth login")


def _argument(name: str, text: str, *words: str) -> Case:
    return setting(f"a trainer argument {name}: {text}"[:70], f"trainer_args={{{name}: {text}}}", *words)


SENDING = [
    _argument("push_to_hub", "true", "push_to_hub", *NO_UPLOAD),
    _argument("push_to_hub", "'yes'", "push_to_hub", *NO_UPLOAD),
    _argument("push_to_hub_model_id", "x", "push_to_hub_model_id", *NO_UPLOAD),
    _argument("hub_model_id", "somebody/model", "hub_model_id", *NO_UPLOAD),
    _argument("hub_strategy", "every_save", "hub_strategy", *NO_UPLOAD),
    _argument("hub_private_repo", "true", "hub_private_repo", *NO_UPLOAD),
    _argument("hub_always_push", "true", "hub_always_push", *NO_UPLOAD),
    _argument("hub_revision", "main", "hub_revision", *NO_UPLOAD),
    _argument("hub_token", "hunter2hunter2", "hub_token", *NO_UPLOAD),
    _argument("hub_token", "[a]", "hub_token", *NO_UPLOAD),
    _argument("api_key", "hunter2hunter2", "api_key", *NO_UPLOAD),
    _argument("password", "hunter2hunter2", "password", *NO_UPLOAD),
]

SECRETS = [
    setting(f"a secret in {name}: {secret[:3]}", f"{name}={secret}", *SHAPE)
    for name in ("system_prompt", "train_file", "output_dir", "model_name_or_path", "push_to", "lora_model_path")
    for secret in (TOKEN, KEY)
] + [
    setting("a secret in a list", f"target_modules=[q_proj, {TOKEN}]", *SHAPE),
    setting("a secret below trainer arguments", f"trainer_args={{lr_scheduler_kwargs: {{x: {TOKEN}}}}}", *SHAPE),
    setting("a secret as the name of a key", f"trainer_args={{{TOKEN}: 1}}", *SHAPE),
    setting("a password in an address", f"model_name_or_path={LOGIN}", *SHAPE),
    config("a secret in a file of settings", f"system_prompt: {TOKEN}\n", "line 1", *SHAPE),
    config("a secret in a setting that there is not", f"hub_token: {TOKEN}\n", "line 1", "is not a setting", *SHAPE),
    config("a secret where a number belongs", f"lora_r: {TOKEN}\n", "line 1", *SHAPE),
]

HALVES = [
    config(f"half a character in {name}", f"{name}: {value}\n", "line 1", "half a character", "the whole character")
    for name, value in (
        ("system_prompt", '"a\\ud800"'),
        ("add_tokens", '["<a>", "\\udc00"]'),
        ("train_file", '"\\ud800.json"'),
        ("trainer_args", '{run_name: "\\ud800"}'),
        ("map_fields", '{"\\ud800": input}'),
    )
]

TRAINER = [
    _argument("label_smoothing_factor", "1.0e+300", "label_smoothing_factor is a share"),
    _argument("label_smoothing_factor", "-0.5", "label_smoothing_factor is a share"),
    _argument("log_level", "/etc/passwd", "trainer_args", "/etc/passwd"),
    _argument("log_level_replica", "loud", "trainer_args", "loud"),
    _argument("data_seed", str(10**24), "trainer_args", "leave it out"),
    _argument("dataloader_num_workers", "-1", "num_workers", "leave it out"),
    _argument("dataloader_persistent_workers", "true", "persistent_workers", "leave it out"),
    _argument("dataloader_multiprocessing_context", "x", "multiprocessing_context", "leave it out"),
    _argument("debug", "-1", "debug is no text", "leave it out"),
]

ALL = [*SENDING, *SECRETS, *HALVES, *TRAINER]
VALUES = (TOKEN, KEY, "hunter2")
