"""How libraries of kernels are built, kept, refused and loaded, and what happens where there are none."""

import itertools
import os
import shutil
import stat
import sys
from types import SimpleNamespace

import pytest
import torch

from lorakit.engine import choose_backend
from lorakit.engine.backends.cpu import build as kernel_build
from lorakit.engine.backends.cpu import library as kernel_library
from lorakit.engine.backends.cpu.compiler import find_compiler
from lorakit.engine.backends.cpu.levels import VARIABLE, NoKernelsError, levels_here
from lorakit.engine.layout import PackedLayout
from lorakit.engine.ops.attention import PackedAttention
from lorakit.engine.runtime import processor

CPU = torch.device("cpu")
OF_PASSES = "kernels-*"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def program(folder, text):
    """A g++ of our own, the only program there is."""
    file = folder / "g++"
    file.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    file.chmod(0o755)
    return str(file)


COMPILERS = {
    "none": (None, "there is no C++ compiler"),
    "broken": (
        'if [ "$1" = --version ]; then echo "version 1"; else echo "no such flag" >&2; exit 1; fi',
        "the C++ compiler failed (no such flag)",
    ),
    "no program at all": ("exit 3", "the C++ compiler failed (it ended with code 3)"),
    "one that makes nothing": ("exit 0", "the C++ compiler failed (it leaves nothing)"),
    "one that waits": ("sleep 1000", "the C++ compiler failed (it has not come to its end in 0 s)"),
    "one that waits behind its own end": ("sleep 1000 & echo 1", "the C++ compiler failed (it has not come to its end"),
    "one that talks for ever": ("yes", "the C++ compiler failed (it says more than any compiler does)"),
    "one that is no text": (r"printf '\377\376'; exit 1", "the C++ compiler failed (\ufffd\ufffd)"),
}


@pytest.mark.parametrize(("text", "reason"), COMPILERS.values(), ids=COMPILERS)
def test_without_a_compiler_that_will_do_pytorch_computes(monkeypatch, tmp_path, cache, text, reason):
    found = text and program(tmp_path, text)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: found)
    if "sleep" in (text or ""):
        monkeypatch.setattr("lorakit.engine.backends.cpu.compiler._TO_ANSWER_SECONDS", 0.2)
    choice = choose_backend(True, CPU, torch.float32)
    assert not choice.is_native
    assert choice.reason.startswith(reason)
    assert not [*cache.rglob("*")]


@pytest.mark.parametrize("name", ["x86-64-v9", "aarch64", "x86-64-v3"])
def test_what_the_processor_lacks_is_not_compiled_for(monkeypatch, tmp_path, name):
    monkeypatch.setattr(processor, "_LINUX_FILE", tmp_path / "none")  # it says nothing of itself
    monkeypatch.setenv(VARIABLE, name)
    choice = choose_backend(True, CPU, torch.float32)
    assert not choice.is_native
    assert choice.reason.startswith(f"{VARIABLE} is {name}, and this processor has native")


@pytest.mark.usefixtures("cache")
def test_elsewhere_than_on_linux_and_macos_pytorch_computes(monkeypatch):
    monkeypatch.setattr(kernel_build.platform, "system", lambda: "Windows")
    assert choose_backend(True, CPU, torch.float32).reason == "not on Windows"


def test_the_path_of_a_library_that_fails_does_not_end_a_run(monkeypatch, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(kernel_library, "compiled", lambda source: broken)
    assert not choose_backend(True, CPU, torch.float32).is_native


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cache with the libraries of one format in it, to be copied."""
    folder = tmp_path_factory.mktemp("cache")
    for source in (kernel_build.FLOAT32_KERNELS, kernel_build.FLOAT32_BLOCKS):
        shutil.copy2(kernel_build.compiled(source), folder)
    return folder


@pytest.fixture
def library(cache, built):
    """One of the libraries in a cache of its own."""
    shutil.copytree(built, cache)
    [library] = cache.glob(OF_PASSES)
    return library


def test_what_is_built_is_used_again_and_what_others_may_write_is_not(monkeypatch, library):
    monkeypatch.setattr(kernel_build, "compile_into", None)  # there is nothing to compile any more
    assert choose_backend(True, CPU, torch.float32).is_native
    library.chmod(library.stat().st_mode | stat.S_IWOTH)
    assert choose_backend(True, CPU, torch.float32).reason == f"others may write {library}"


def cut(file, share):
    """As a full disk or a crash leaves it; in a new file, as the old one may be in use."""
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[: int(len(whole) * share)])


def flip(file, _):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    file.write_bytes(data)


DAMAGE = {"empty": (cut, 0), "half of it": (cut, 0.5), "nearly all": (cut, 0.99), "one bit": (flip, None)}


@pytest.mark.parametrize(("damage", "share"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_library_is_never_run_but_built_anew(monkeypatch, built, library, damage, share):
    damage(library, share)
    [whole] = (file.read_bytes() for file in built.glob(OF_PASSES))

    def run(command, most_seconds):
        return (open(command[command.index("-o") + 1], "wb").write(whole), "")[1]  # what a compiler would make

    monkeypatch.setattr(kernel_build, "output_of", run)
    assert choose_backend(True, CPU, torch.float32).is_native
    [anew] = library.parent.glob(OF_PASSES)
    assert anew.read_bytes() == whole


def test_what_a_killed_compilation_has_left_is_swept_away(monkeypatch, cache):
    old, new = cache / "building-old", cache / "building-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "library.so").write_bytes(b"half of one")
    os.utime(old, (0, 0))
    monkeypatch.setattr(kernel_build, "compile_into", None)
    with pytest.raises(TypeError):
        choose_backend(True, CPU, torch.float32)
    assert [*cache.iterdir()] == [new]  # another process may be at it


def test_what_the_package_brings_needs_no_compiler_and_is_the_best_of_what_the_processor_has(
    monkeypatch, tmp_path, built, cache
):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(kernel_build, "_BUILT_IN", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    sources = (kernel_build.FLOAT32_KERNELS, kernel_build.FLOAT32_BLOCKS)
    for source, level in itertools.product(sources, levels_here()):
        file = tmp_path / "library.so"
        file.write_bytes(next(built.glob(f"{source.name}-*")).read_bytes())
        name = f"{kernel_build._built_in_name(source, level)}-{kernel_build._content_digest(file)}.so"
        file.rename(tmp_path / name)
    choice = choose_backend(True, CPU, torch.float32)
    assert choice.is_native
    assert choice.reason.startswith(f"built in: kernels-float32-{levels_here()[0].name}")
    for file in tmp_path.glob("*.so"):
        file.write_bytes(b"damaged")
    assert choose_backend(True, CPU, torch.float32).reason == "there is no C++ compiler"


def test_with_other_threads_than_openmp_s_one_thread_computes_the_same(monkeypatch):
    spans = PackedLayout((40, 50)).spans
    inputs = [torch.randn(1, heads, 90, 64, requires_grad=True) for heads in (6, 2, 2)]
    found = []
    for threads in (kernel_library._threads(), (None,) * 5):
        monkeypatch.setattr(kernel_library, "_threads", lambda threads=threads: threads)
        backend = choose_backend(True, CPU, torch.float32)
        assert backend.is_native
        output = PackedAttention.apply(*inputs, spans, 0.1, backend)
        found.append([output, *torch.autograd.grad(output.sum(), inputs)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_compiler_s_command_that_cannot_be_read_is_said(monkeypatch):
    monkeypatch.setenv("CXX", "g++ 'half")
    with pytest.raises(NoKernelsError, match=r"CXX cannot be read \(No closing quotation\)"):
        find_compiler()


def test_what_another_process_has_just_built_stays_and_what_is_damaged_goes(tmp_path):
    def build(content):
        writes = f"import sys; open(sys.argv[-1], 'wb').write({content!r})"
        return kernel_build.compile_into(
            tmp_path, "kernels", [sys.executable, "-c", writes], SimpleNamespace(file="kernels.cpp")
        )

    first, damaged = build(b"first"), build(b"to be damaged")
    damaged.write_bytes(b"to be")
    second = build(b"second")
    assert sorted(tmp_path.iterdir()) == sorted([first, second])
