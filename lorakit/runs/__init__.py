"""The folder of a run and the records in it."""

from lorakit.runs.folder import (
    ADAPTER_FOLDER,
    CURVE_FILE,
    PREDICTIONS_FILE,
    RESULTS_FILE,
    UNUSED_ROWS_FILE,
    USED_CONFIG_FILE,
    archive_previous_run,
    newest_checkpoint,
    open_folder,
    write_json,
    write_text,
)
from lorakit.runs.records import EvaluationRecord, MemoryRecord, PlanRecord, RecordLog, StepRecord, read_records

__all__ = [
    "ADAPTER_FOLDER",
    "CURVE_FILE",
    "PREDICTIONS_FILE",
    "RESULTS_FILE",
    "UNUSED_ROWS_FILE",
    "USED_CONFIG_FILE",
    "EvaluationRecord",
    "MemoryRecord",
    "PlanRecord",
    "RecordLog",
    "StepRecord",
    "archive_previous_run",
    "newest_checkpoint",
    "open_folder",
    "read_records",
    "write_json",
    "write_text",
]
