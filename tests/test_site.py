"""The documentation builds as pages, with the reference of the Python interface."""

import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow


def test_the_site_builds_and_names_what_the_interface_has(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    reference = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("load", "LoadedModel.generate", "LoadedModel.train", "LoadedModel.merge"):
        assert f'id="lorakit.api.{name}"' in reference, name
    assert 'id="lorakit.errors.LorakitError"' in reference
    assert (tmp_path / "site" / "first-hour.zh-CN" / "index.html").is_file()
