"""No bad input takes longer than ten seconds of a processor, or a gigabyte more than a training of a few steps."""

import json
import os
import subprocess
import sys

import bad_input_cases
import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow
MOST_SECONDS, MOST_BYTES = 10, 1_000_000_000


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="memory is measured as on Linux")
def test_every_case_of_bad_input_is_refused_within_bounds(tmp_path):
    report = tmp_path / "report.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, str(ROOT / "tests" / "measuring.py"), str(report)],
        env=environment,
        check=True,
        timeout=3600,
    )
    outcomes = json.loads(report.read_text())
    assert outcomes.keys() == {case.name for case in bad_input_cases.ALL}
    assert {name: found["said"][-500:] for name, found in outcomes.items() if found["code"] != 2} == {}
    assert {name: found["seconds"] for name, found in outcomes.items() if found["seconds"] > MOST_SECONDS} == {}
    assert {name: found["bytes_above"] for name, found in outcomes.items() if found["bytes_above"] > MOST_BYTES} == {}
    assert all(
        found["said"].count("\nerror: ") + found["said"].startswith("error: ") == 1 for found in outcomes.values()
    )
