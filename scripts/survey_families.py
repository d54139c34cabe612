"""Hold the engine against every causal and image-text class of the installed transformers, and write docs/families.md.

    python scripts/survey_families.py [--write] [type ...]

Models are small and random, of the real classes. For each the engine's own proof says what may stand in for its code;
then loss and gradients of other rows, through all layers, are held against untouched transformers + PEFT in float32,
one row at a time. Needs the packages of the tests.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from family_survey import model_types, page, survey  # noqa: E402 - it stands with the tests


def main() -> int:
    """Survey, print a line for each type, and write the page where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="only these")
    parser.add_argument("--write", action="store_true", help="write docs/families.md")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    found = []
    for name in asked.types or model_types():
        started = time.perf_counter()
        found.append(survey(name))
        print(f"{time.perf_counter() - started:5.1f} s  {found[-1]}", flush=True)
    wrong = [one.name for one in found if one.is_wrong]
    print(f"{sum(one.is_right for one in found)} right, {len(wrong)} silently wrong {wrong}, of {len(found)}")
    if asked.write:
        (ROOT / "docs" / "families.md").write_text(page(found), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
