"""The folder of a run and the records in it."""

from lorakit.runs.archive import archive_previous_run, finish_archiving
from lorakit.runs.cache import cache_folder
from lorakit.runs.checkpoints import (
    CheckpointFacts,
    checkpoints,
    discard_old,
    fault_in,
    publish,
    read_facts,
    step_of,
)
from lorakit.runs.folder import check_room, explaining_write_errors, locked, open_folder, writing_alone
from lorakit.runs.identity import RunIdentity, new_mark, read_identity
from lorakit.runs.names import (
    ADAPTER_FOLDER,
    CARD_FILE,
    CURVE_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    UNUSED_ROWS_FILE,
    USED_CONFIG_FILE,
)
from lorakit.runs.records import EvaluationRecord, MemoryRecord, PlanRecord, RecordLog, StepRecord, read_records
from lorakit.runs.storage import (
    clear_working_folder,
    discard,
    place_folder,
    settle_folder,
    settle_folders,
    working_folder,
    write_bytes,
    write_json,
    write_text,
)

__all__ = [
    "ADAPTER_FOLDER",
    "CARD_FILE",
    "CURVE_FILE",
    "PREDICTIONS_FILE",
    "REPORT_FILE",
    "RESULTS_FILE",
    "UNUSED_ROWS_FILE",
    "USED_CONFIG_FILE",
    "CheckpointFacts",
    "EvaluationRecord",
    "MemoryRecord",
    "PlanRecord",
    "RecordLog",
    "RunIdentity",
    "StepRecord",
    "archive_previous_run",
    "cache_folder",
    "check_room",
    "checkpoints",
    "clear_working_folder",
    "discard",
    "discard_old",
    "explaining_write_errors",
    "fault_in",
    "finish_archiving",
    "locked",
    "new_mark",
    "open_folder",
    "place_folder",
    "publish",
    "read_facts",
    "read_identity",
    "read_records",
    "settle_folder",
    "settle_folders",
    "step_of",
    "working_folder",
    "write_bytes",
    "write_json",
    "write_text",
    "writing_alone",
]
