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
    code, [command] = run(programs=("nvidia-smi",))
    assert code == 0
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-4:] == ["-c", "constraints.txt", "-e", ".[dev]"]


def test_uv_finds_the_build_for_this_machine(run):
    for programs in (("uv",), ("uv", "nvidia-smi")):
        _, [command] = run(programs)
        assert command[:3] == ["/bin/uv", "pip", "install"]
        assert command[command.index("--python") + 1] == sys.executable
        assert "--torch-backend=auto" in command


def test_without_a_gpu_uv_is_fetched_rather_than_gigabytes_for_gpus(run):
    _, [fetching, command] = run(programs=())
    assert fetching[-1] == "uv"
    assert command[:4] == [sys.executable, "-m", "uv", "pip"]
    assert "--torch-backend=auto" in command


def test_where_uv_cannot_be_had_the_size_is_said_before_it_is_fetched(run, capsys):
    _, called = run(programs=(), fails=["uv"])
    assert called[-1][:4] == [sys.executable, "-m", "pip", "install"]
    said = capsys.readouterr().err
    assert said.startswith("3 to 5 GB to fetch: PyTorch with CUDA, which pip takes though there is no GPU here")


@pytest.mark.parametrize(("programs", "size"), [(("uv",), "0.4 GB"), (("uv", "nvidia-smi"), "3 to 5 GB")])
def test_what_will_be_fetched_is_said_with_its_reason(run, capsys, programs, size):
    run(programs)
    assert size in capsys.readouterr().err


@pytest.mark.parametrize(("fails", "attempts"), [(["--torch-backend=auto"], 2), (["/bin/uv"], 3)])
def test_where_one_way_fails_the_next_is_gone(run, fails, attempts):
    code, called = run(("uv",), fails)
    assert (code, len(called)) == (0, attempts)
    assert "--torch-backend=auto" not in called[-1]


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
