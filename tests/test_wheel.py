"""The wheel, installed into an environment of its own and used in another folder (slow).

Its packages are those of this environment, without lorakit; with BARE_ENVIRONMENT=1 they are fetched from the index.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest
from conftest import ROOT, TRAIN_FILE

pytestmark = pytest.mark.slow
ROWS = json.loads(TRAIN_FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def lorakit(tmp_path_factory):
    """Return a function that runs the installed command in a folder where nothing else is."""
    root = tmp_path_factory.mktemp("wheel")
    kept_out = shutil.ignore_patterns(".*", "output", "tests", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, root / "source", ignore=kept_out)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(root), str(root / "source")], check=True
    )
    [wheel] = root.glob("lorakit-*.whl")
    environment = root / "environment"
    venv.create(environment, with_pip=True)
    scripts = environment / ("Scripts" if sys.platform == "win32" else "bin")
    is_bare = os.environ.get("BARE_ENVIRONMENT") == "1"
    wanted = ["-c", str(ROOT / "constraints.txt"), str(wheel)] if is_bare else ["--no-deps", str(wheel)]
    subprocess.run([str(scripts / "python"), "-m", "pip", "install", "-q", *wanted], check=True)
    if not is_bare:
        [site] = environment.glob("lib/python*/site-packages")
        (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")  # a plain folder: no hooks of its own
    folder = root / "elsewhere"
    folder.mkdir()

    def run(*words, text=""):
        without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [str(scripts / "lorakit"), *words],
            cwd=folder,
            env=without | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
            input=text,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )

    run.folder = folder
    return run


def test_what_is_installed_begins_trains_evaluates_and_answers(lorakit):
    where = lorakit("--version")
    assert where.stdout.startswith("lorakit ")
    begun = lorakit("init")
    assert begun.returncode == 0, begun.stderr
    assert "lorakit --task preview" in begun.stderr
    assert lorakit("init").returncode == 2
    trained = lorakit("train")
    assert trained.returncode == 0, trained.stderr
    assert "lorakit --task inference" in trained.stderr
    evaluated = lorakit("evaluate")
    assert evaluated.returncode == 0, evaluated.stderr
    answered = lorakit("inference", text="".join(row["text"] + "\n" for row in ROWS))
    assert answered.returncode == 0, answered.stderr
    answers = answered.stdout.splitlines()
    assert sum(answer == row["target"] for answer, row in zip(answers, ROWS, strict=True)) >= 12


def test_the_doctor_of_what_is_installed_shows_no_path(lorakit):
    told = lorakit("doctor")
    assert told.returncode == 0
    assert str(lorakit.folder.parent) not in told.stdout
