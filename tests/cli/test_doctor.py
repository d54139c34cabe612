import getpass
import platform
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lorakit import libraries
from lorakit.cli import doctor, main


@pytest.fixture
def report(capsys, monkeypatch):
    """Return a function that runs the doctor and returns its text, held to what every report must be."""
    monkeypatch.setattr(doctor, "start_libraries", lambda: None)
    monkeypatch.setattr(libraries, "_SETTINGS", {})

    def run():
        assert main(["doctor"]) == 0
        text = capsys.readouterr().out
        assert len(text.splitlines()) <= 24
        assert all(f"  {name} " in text for name in doctor._CHECKS)
        private = {str(Path.home()), str(Path.cwd()), getpass.getuser() + "@", platform.node()}
        assert not [word for word in private if len(word) > 3 and word in text]
        return text

    return run


def test_a_machine_without_a_gpu(report, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "_has_gpu_program", lambda: False)
    assert "GPU            none" in report()


def test_a_gpu_that_pytorch_cannot_use_is_told_with_its_remedy(report, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "_has_gpu_program", lambda: True)
    text = report()
    assert "one that this PyTorch cannot use" in text
    assert "--torch-backend=auto" in text


def test_a_gpu_is_named_with_its_memory(report, monkeypatch):
    found = SimpleNamespace(name="Fake 4090", total_memory=24 * 10**9, major=8, minor=9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: found)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    text = report()
    assert "Fake 4090, 24.0 GB, 8.9, bfloat16" in text
    assert "bfloat16 (this GPU computes it in hardware)" in text


def test_without_a_compiler_it_says_what_one_would_bring(report, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    text = report()
    assert "PyTorch (there is no C++ compiler)" in text
    assert "a quarter faster" in text
    assert not (tmp_path / "cache").exists()


def test_it_needs_no_network(report, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "socket", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    report()


def test_a_home_that_cannot_be_written_is_told(report, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "cannot be written: set LORAKIT_CACHE to another folder" in report()


def test_what_fails_is_said_and_the_rest_is_shown(report, monkeypatch):
    def broken():
        raise RuntimeError("driver")

    monkeypatch.setitem(doctor._CHECKS, "GPU", broken)
    assert "cannot be found out (RuntimeError)" in report()
