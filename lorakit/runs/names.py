"""What a run's files are called."""

from __future__ import annotations

import re

ADAPTER_FOLDER = "lora_model"
CARD_FILE = "README.md"  # beside the adapter
EVENTS_FILE = "events.jsonl"
IDENTITY_FILE = "run.json"
RESULTS_FILE = "eval_results.json"
PREDICTIONS_FILE = "predictions.jsonl"
CURVE_FILE = "loss_curve.png"
REPORT_FILE = "report.html"
USED_CONFIG_FILE = "config_used.yaml"
UNUSED_ROWS_FILE = "unused_rows.txt"
REPLAY_FILE = "replay.jsonl"  # what the base answered to general questions, where these are trained too
WRITTEN_FILE = ".lorakit-written.json"  # what is as lorakit wrote it, of all runs in a folder
CHECKPOINT_ASIDE = "checkpoint"  # whose working folder gets checkpoints while they are written
CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
# Written anew by a run that goes on, and by an evaluation.
FILES_WRITTEN_OVER = (
    RESULTS_FILE,
    PREDICTIONS_FILE,
    CURVE_FILE,
    REPORT_FILE,
    USED_CONFIG_FILE,
    UNUSED_ROWS_FILE,
    REPLAY_FILE,
)
FILES_OF_A_RUN = (EVENTS_FILE, IDENTITY_FILE, ADAPTER_FOLDER, *FILES_WRITTEN_OVER)
