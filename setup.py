"""A wheel with what `lorakit init` writes, and where it is asked for, with the kernels inside.

``LORAKIT_BUILD_KERNELS=1 python -m build`` compiles them. Everything else about the package stands in pyproject.toml.
"""

import os
import sys
import types
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

_PACKAGE = Path(__file__).parent / "lorakit"


_SAMPLE = ("config.yaml", "data/train.json", "data/validation.json")


class WithSample(build_py):
    """Copies what a newcomer begins with into the package; a checkout has it at its root."""

    def run(self) -> None:
        """Copy the package, then the sample."""
        super().run()
        if self.editable_mode:
            return
        for name in _SAMPLE:
            target = Path(self.build_lib) / "lorakit" / "sample" / name
            self.mkpath(str(target.parent))
            self.copy_file(str(Path(__file__).parent / name), str(target))


class WithKernels(WithSample):
    """Compiles every library for every level of this kind of processor."""

    def run(self) -> None:
        """Copy the package, then compile into it."""
        super().run()
        sys.path.insert(0, str(_PACKAGE.parent))
        engine = types.ModuleType("lorakit.engine")  # without what it imports, which is PyTorch
        engine.__path__ = [str(_PACKAGE / "engine")]
        sys.modules["lorakit.engine"] = engine
        from lorakit.engine.backends.cpu.build import ROOM, build_in

        for library in build_in(Path(self.build_lib) / ROOM.relative_to(_PACKAGE.parent)):
            self.announce(f"compiled {library.name}", level=2)


class ForPlatform(bdist_wheel):
    """Names the wheel after the kind of processor, and no version of Python: its libraries know nothing of Python."""

    def finalize_options(self) -> None:
        """Say that what is inside is not for every machine."""
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        """Return such as py3, none, linux_x86_64."""
        return "py3", "none", super().get_tag()[2]


has_kernels = os.environ.get("LORAKIT_BUILD_KERNELS") == "1"
setup(cmdclass={"build_py": WithKernels, "bdist_wheel": ForPlatform} if has_kernels else {"build_py": WithSample})
