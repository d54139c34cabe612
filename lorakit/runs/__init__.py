"""The folder of a run and the records in it."""

from lorakit.runs.cache import cache_folder
from lorakit.runs.checkpoints import WRITING_FOLDER, checkpoints, fault_in, publish, step_of
from lorakit.runs.folder import (
    ADAPTER_FOLDER,
    CARD_FILE,
    CURVE_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    UNUSED_ROWS_FILE,
    USED_CONFIG_FILE,
    archive_previous_run,
    explaining_write_errors,
    open_folder,
    write_json,
    write_text,
    writing_alone,
)
from lorakit.runs.identity import RunIdentity, read_identity
from lorakit.runs.records import EvaluationRecord, MemoryRecord, PlanRecord, RecordLog, StepRecord, read_records

__all__ = [
    "ADAPTER_FOLDER",
    "CARD_FILE",
    "CURVE_FILE",
    "PREDICTIONS_FILE",
    "REPORT_FILE",
    "RESULTS_FILE",
    "UNUSED_ROWS_FILE",
    "USED_CONFIG_FILE",
    "WRITING_FOLDER",
    "EvaluationRecord",
    "MemoryRecord",
    "PlanRecord",
    "RecordLog",
    "RunIdentity",
    "StepRecord",
    "archive_previous_run",
    "cache_folder",
    "checkpoints",
    "explaining_write_errors",
    "fault_in",
    "open_folder",
    "publish",
    "read_identity",
    "read_records",
    "step_of",
    "write_json",
    "write_text",
    "writing_alone",
]
