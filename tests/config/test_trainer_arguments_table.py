"""Every field of the installed TrainingArguments is obeyed, without effect on numbers, or refused with a remedy."""

from dataclasses import fields

from transformers import TrainingArguments

from lorakit.config.trainer_arguments import _SENDING, OWNED

OBEYED = {
    *("max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor", "data_seed", "tf32"),
    *("full_determinism", "train_sampling_strategy", "dataloader_drop_last", "load_best_model_at_end"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "save_strategy", "save_steps", "save_total_limit"),
    *("save_only_model", "restore_callback_states_from_checkpoint", "fsdp", "fsdp_config", "use_cpu"),
    *("activation_checkpointing", "activation_checkpointing_kwargs", "ddp_timeout", "ddp_backend"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs", "deepspeed"),  # the last is refused, with a reason
}
WITHOUT_EFFECT = {
    *("logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter"),
    *("log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id"),
    *("trackio_bucket_id", "trackio_static_space_id", "include_num_input_tokens_seen", "torch_empty_cache_steps"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_in_order"),
    *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "length_column_name", "use_cache"),
    *("prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps"),
    *("include_for_metrics", "batch_eval_metrics", "skip_memory_metrics", "debug", "do_train", "do_eval", "do_predict"),
    *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "liger_kernel_config"),
    "local_rank",
}


def test_no_field_is_passed_on_without_a_decision():
    known = {field.name for field in fields(TrainingArguments) if field.init}
    refused = set(OWNED) | {name for name in known if name.startswith(_SENDING)}
    assert known - OBEYED - WITHOUT_EFFECT - refused == set()
    assert not OBEYED & WITHOUT_EFFECT
    assert not (OBEYED | WITHOUT_EFFECT) & refused
