"""Check ``trainer_args`` against the fields of ``transformers.TrainingArguments`` without importing it.

Importing transformers takes seconds and torch with it; a misspelt name should not. So the class is read from the
source of the installed version: names, annotations and nothing else.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from lorakit.outgoing import is_secret_name

OWNED = {
    "output_dir": "set output_dir as a setting of its own",
    "num_train_epochs": "set num_train_epochs as a setting of its own",
    "per_device_train_batch_size": "set per_device_train_batch_size as a setting of its own",
    "per_device_eval_batch_size": "set per_device_eval_batch_size as a setting of its own",
    "gradient_accumulation_steps": "set gradient_accumulation_steps as a setting of its own",
    "learning_rate": "set learning_rate as a setting of its own",
    "seed": "set seed as a setting of its own",
    "bf16": "set torch_dtype: bfloat16",
    "fp16": "set torch_dtype: float16",
    "resume_from_checkpoint": "set resume: true",
    "remove_unused_columns": "leave it out: rows reach the loss as they are",
    "label_names": "leave it out: the trained tokens come from the data",
    "auto_find_batch_size": "leave it out: it would change your batch without a word",
    "use_liger_kernel": "leave it out: the loss is already taken over the trained tokens only",
    "average_tokens_across_devices": "leave it out: the loss is the mean over all trained tokens of a step",
    "neftune_noise_alpha": "leave it out: its noise would depend on the rows that are computed together",
    "optim_target_modules": "leave it out: it is for optimizers that train whole layers",
    "bf16_full_eval": "set torch_dtype: bfloat16",
    "fp16_full_eval": "set torch_dtype: float16",
    "torch_compile": "set compile_layers",
    "torch_compile_backend": "set compile_layers",
    "torch_compile_mode": "set compile_layers",
    "accelerator_config": "leave it out: each process takes its share of the rows of a step",
    "parallelism_config": "leave it out: processes share rows, or the model by fsdp",
    "ddp_static_graph": "leave it out: gradients are exchanged once a step",
    "metric_for_best_model": "leave it out: the best adapter is the one of the lowest validation loss",
    "greater_is_better": "leave it out: the best adapter is the one of the lowest validation loss",
    "ignore_data_skip": "leave it out: a resumed run goes on with the row that comes next",
    "enable_jit_checkpoint": "leave it out: SIGTERM saves a checkpoint already",
    "save_on_each_node": "leave it out: one process writes",
}

# What would send something from here without showing it first.
_SENDING = ("push_to_hub", "hub_")

# Fields whose annotation says less than they take.
_CORRECTED = {"fsdp": "bool | str | None"}

_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "dict": (dict,),
    "dict[str, Any]": (dict,),
    "list[str]": (list,),
    "None": (type(None),),
}


def check_trainer_arguments(arguments: dict[str, Any]) -> list[tuple[str, str, str]]:
    """List the faults of ``trainer_args`` as (name, fault, remedy), in the order given."""
    annotations = _annotations()
    faults = []
    for name, value in arguments.items():
        if str(name).startswith(_SENDING) or is_secret_name(str(name)):
            if value not in (None, False):
                faults.append((str(name), "is not set here", "--task push shows what would be sent, and asks first"))
        elif name in OWNED:
            faults.append((str(name), "is not set here", OWNED[name]))
        elif annotations and name not in annotations:
            close = difflib.get_close_matches(str(name), annotations, n=1, cutoff=0.6)
            remedy = f"did you mean {close[0]}?" if close else "see the documentation of TrainingArguments"
            faults.append((str(name), "is not a field of TrainingArguments", remedy))
        elif annotations and not _fits(_CORRECTED.get(name, annotations[name]), value):
            faults.append((name, f"must be {annotations[name]} (found: {value!r})", "correct its value"))
    return faults


def _fits(annotation: str, value: Any) -> bool:
    parts = [part.strip() for part in annotation.split("|")]
    if any(part not in _KINDS for part in parts):  # an enum or a class: TrainingArguments itself will judge
        return True
    allowed = tuple(kind for part in parts for kind in _KINDS[part])
    return isinstance(value, allowed) and (not isinstance(value, bool) or bool in allowed)


@cache
def _annotations() -> dict[str, str]:
    """Map each field of the installed TrainingArguments to its annotation; empty if it cannot be read."""
    specification = importlib.util.find_spec("transformers")
    folders = list(specification.submodule_search_locations or []) if specification else []
    for folder in folders:
        source = Path(folder) / "training_args.py"
        if source.is_file():
            return _fields_of(ast.parse(source.read_text(encoding="utf-8")), "TrainingArguments")
    return {}


def _fields_of(tree: ast.Module, class_name: str) -> dict[str, str]:
    return {
        statement.target.id: ast.unparse(statement.annotation)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == class_name
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }
