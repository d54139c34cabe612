"""scripts/install.py: the quickest way first, and another where it fails."""

import importlib.util
import sys

import pytest
from conftest import ROOT

_specification = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
installation = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(installation)


@pytest.fixture
def run(monkeypatch):
    """Return a function that installs where these programs are, and returns the exit code and the commands."""

    def installed(programs, fails=()):
        called = []

        def call(command, cwd, env):
            assert cwd == ROOT
            called.append(command)
            return int(any(word in command for word in fails))

        monkeypatch.setattr(installation.shutil, "which", lambda name: f"/bin/{name}" if name in programs else None)
        monkeypatch.setattr(sys, "platform", "linux")
        return installation.install("dev", call), called

    return installed


def test_without_uv_pip_installs_the_pinned_packages_into_this_environment(run):
    code, [command] = run(programs=())
    assert code == 0
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-4:] == ["-c", "constraints.txt", "-e", ".[dev]"]


def test_uv_fetches_the_build_for_cpus_where_there_is_no_gpu(run):
    _, [command] = run(programs=("uv",))
    assert command[:3] == ["/bin/uv", "pip", "install"]
    assert command[command.index("--python") + 1] == sys.executable
    assert "--torch-backend=cpu" in command


def test_with_a_gpu_the_build_for_it_is_fetched(run):
    _, [command] = run(programs=("uv", "nvidia-smi"))
    assert command[0] == "/bin/uv"
    assert "--torch-backend=cpu" not in command


@pytest.mark.parametrize(("fails", "attempts"), [(["--torch-backend=cpu"], 2), (["/bin/uv"], 3)])
def test_where_one_way_fails_the_next_is_gone(run, fails, attempts):
    code, called = run(("uv",), fails)
    assert (code, len(called)) == (0, attempts)
    assert "--torch-backend=cpu" not in called[-1]


def test_what_cannot_be_installed_at_all_is_a_failure(run):
    assert run((), fails=["install"])[0] == 1


@pytest.mark.parametrize(
    ("file", "is_compiled"),
    [
        ("torch/nn/functional.py", True),
        ("transformers/trainer.py", True),
        ("transformers/models/llama/modeling_llama.py", True),
        ("transformers/models/qwen3_vl/modeling_qwen3_vl.py", True),
        ("transformers/models/opt/modeling_opt.py", True),
        ("transformers/models/owlvit/modeling_owlvit.py", False),
        ("pyarrow/tests/test_io.py", False),
    ],
)
def test_byte_code_is_made_of_what_a_run_imports(file, is_compiled):
    assert (installation._NOT_COMPILED.search(f"/site-packages/{file}") is None) is is_compiled
