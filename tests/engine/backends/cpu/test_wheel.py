"""A wheel with the kernels inside, on a machine that has no compiler."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from lorakit.engine.backends.cpu.build import HALF_PRODUCTS, SOURCES
from lorakit.engine.backends.cpu.levels import VARIABLE, levels_here, levels_of, machine

SHOW = """
import lorakit, torch
from lorakit.engine import choose_backend
from lorakit.engine.ops.pointwise import RmsNorm
import shutil
assert not any(map(shutil.which, ("g++", "c++", "clang++"))), "there is a compiler"
print(lorakit.__file__)
for dtype in (torch.float32, torch.bfloat16):
    backend = choose_backend(True, torch.device("cpu"), dtype)
    print(backend)
    assert backend.is_native
    x = torch.ones(2, 8, dtype=dtype)
    assert torch.equal(RmsNorm.apply(x, x[0], 0.0, backend), x)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from what stands here, by the tools that are installed: no network."""
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source") / "lorakit"
    shutil.copytree(ROOT / "lorakit", source / "lorakit")  # a build leaves folders where it runs
    shutil.copytree(ROOT / "data", source / "data")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "config.yaml"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    subprocess.run([*pip, str(source)], check=True, env=os.environ | {"LORAKIT_BUILD_KERNELS": "1"})
    [found] = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_it_has_every_library_for_every_processor_of_a_kind_and_is_named_after_that(wheel):
    assert "-py3-none-" in wheel.name
    assert wheel.name.endswith(f"{machine()}.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for source in set(SOURCES) - {HALF_PRODUCTS}:
        for level in levels_of(machine()):
            assert sum(f"/built_in/{source.name}-{level.name}-" in name for name in names) >= 1


@pytest.mark.slow
def test_it_computes_with_them_where_there_is_no_compiler(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    packages = next((tmp_path / "venv").rglob("site-packages"))
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(installed), str(wheel)]
    subprocess.run(pip, check=True)
    (packages / "all.pth").write_text(f"{installed}\n{Path(torch.__file__).parents[1]}\n", encoding="utf-8")
    python = tmp_path / "venv" / "bin" / "python"
    environment = {"PATH": str(python.parent), "HOME": str(tmp_path), "LORAKIT_CACHE": str(tmp_path / "cache")}

    def shown(**more):
        command = [str(python), "-c", SHOW]
        return subprocess.run(
            command, cwd=tmp_path, env=environment | more, capture_output=True, text=True, check=False
        )

    done = shown()
    assert done.returncode == 0, done.stderr
    place, *choices = done.stdout.splitlines()
    assert place == str(installed / "lorakit" / "__init__.py")
    for choice, format_name in zip(choices, ("float32", "bfloat16"), strict=True):
        assert choice.startswith(f"C++ (built in: kernels-{format_name}-{levels_here()[0].name}-")
    assert not (tmp_path / "cache").exists()
    assert "PyTorch (there is no C++ compiler)" in shown(**{VARIABLE: "native"}).stdout  # which is to compile
