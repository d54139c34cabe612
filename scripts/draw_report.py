"""The picture of a report for the READMEs: ``python scripts/draw_report.py [RUN]`` (needs Chromium).

RUN is the folder of a training; without it the shipped configuration is trained first. What a browser shows of the top
of its report.html, without a window and without a network, becomes a PNG of few colours.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "report.png"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_WIDTH, _HEIGHT = 1000, 1560
_COLOURS = 256
_MOST_BYTES = 200_000
_SECONDS = 120


def shown(report: Path, program: str, folder: Path) -> Image.Image:
    """Return what a browser shows of a page.

    Args:
        report: The page.
        program: Chromium.
        folder: For its profile and its picture.
    """
    picture = folder / "shown.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"]
    place = [f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}", f"--window-size={_WIDTH},{_HEIGHT}"]
    command = [program, *options, *place, report.resolve().as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
    return Image.open(io.BytesIO(picture.read_bytes())).convert("RGB")


def save(image: Image.Image, file: Path) -> None:
    """Write a picture in few colours."""
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    if file.stat().st_size > _MOST_BYTES:
        raise SystemExit(f"{file.name} has more than {_MOST_BYTES} bytes")


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="folder of a training")
    given = parser.parse_args(argv).run
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise SystemExit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        run = given or Path(folder) / "output"
        if given is None:
            train = [sys.executable, "main.py", "--task", "train", "--language", "en", "--output_dir", str(run)]
            subprocess.run(train, cwd=ROOT, check=True)
        save(shown(run / "report.html", program, Path(folder)), PICTURE)


if __name__ == "__main__":
    main()
