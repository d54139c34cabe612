"""The two hubs that files are sent to, by their own packages, which find the token by themselves."""

from __future__ import annotations

import glob
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from lorakit.errors import LorakitError, RunError, SettingsError
from lorakit.export.hub.parcel import Parcel
from lorakit.invocation import installing

_TOKEN_VARIABLES = ("HF_TOKEN", "MODELSCOPE_API_TOKEN")
_MESSAGE = "Upload by lorakit"
_TOKEN = re.compile(r"\b(?:hf|ms)[_-][A-Za-z0-9-]{8,}")
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_LONGEST_PART = 96  # characters, of both hubs
_MOST_SHOWN = 300  # characters of what a hub says


class Hub(ABC):
    """A hub, and how a parcel is sent to it."""

    title: ClassVar[str]
    login: ClassVar[str]

    def check_name(self, repository: str) -> None:
        """Hold a repository's name to what both hubs take.

        Raises:
            SettingsError: It is another one.
        """
        parts = repository.split("/")
        is_odd = any(".." in part or "--" in part or part.endswith((".", "-", ".git")) for part in parts)
        if not _NAME.fullmatch(repository) or is_odd or max(map(len, parts)) > _LONGEST_PART:
            raise SettingsError(
                f"push_to: {repository!r} is not the name of a repository",
                "write owner/name: letters, digits, and single -, _ or . between them, such as --push_to alice/my-lora",
            )

    def send(self, parcel: Parcel, repository: str, is_private: bool) -> str:
        """Make the repository where it is not there, and send the files.

        Returns:
            The address of the repository.

        Raises:
            RunError: The hub has not taken it.
        """
        api = self._open()
        try:
            return self._send(api, parcel, repository, is_private)
        except LorakitError:
            raise
        except Exception as error:  # HTTP, authentication, network and naming errors share no base class
            raise RunError(
                f"push_to: {self.title} has not taken {repository!r} ({_reason(error)})",
                f"{self.login}; the token needs the right to write, and {repository.partition('/')[0]!r} has to be you "
                "or an organisation of yours; check the network; then run this again",
            ) from error

    @abstractmethod
    def visibility_note(self, is_private: bool) -> str:
        """Say what is to be known of a repository's visibility."""

    @abstractmethod
    def _open(self) -> Any: ...

    @abstractmethod
    def _send(self, api: Any, parcel: Parcel, repository: str, is_private: bool) -> str: ...


class HuggingFace(Hub):
    """The Hugging Face Hub, by huggingface_hub."""

    title = "Hugging Face"
    login = "log in by `hf auth login`, or set HF_TOKEN"

    def visibility_note(self, is_private: bool) -> str:
        """Say what becomes of a repository that is there."""
        if is_private:
            return "one that is there and public is not sent to; push_private=false for a public one"
        return "one that is there keeps its own; push_private=true for a private one"

    def _open(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi()

    def _send(self, api: Any, parcel: Parcel, repository: str, is_private: bool) -> str:
        address = api.create_repo(repository, private=is_private, repo_type="model", exist_ok=True)
        if is_private and not api.repo_info(repository, repo_type="model").private:
            raise RunError(
                f"push_to: {repository!r} is there already and public, so nothing was sent",
                "choose another name; or make it private on its page; or agree to a public one: push_private=false",
            )
        _upload(api, parcel, repository)
        return str(address)


class ModelScope(Hub):
    """ModelScope, by its own package, which is optional."""

    title = "ModelScope"
    login = "set MODELSCOPE_API_TOKEN, or log in by `modelscope login`"

    def visibility_note(self, is_private: bool) -> str:
        """Say what becomes of a repository that is there, and of the licence."""
        return (
            "one that is there keeps its own, look at its page before; ModelScope notes a new one under Apache-2.0, "
            "which is changed on its page"
        )

    def _open(self) -> Any:
        try:
            from modelscope.hub.api import HubApi
        except ImportError as error:
            raise SettingsError(
                "model_hub: files are to go to ModelScope, whose package is not installed",
                installing("modelscope"),
            ) from error
        return HubApi()

    def _send(self, api: Any, parcel: Parcel, repository: str, is_private: bool) -> str:
        api.create_repo(
            repository,
            visibility="private" if is_private else "public",
            repo_type="model",
            exist_ok=True,
            create_default_config=False,
        )
        _upload(api, parcel, repository)
        return f"{str(api.endpoint).rstrip('/')}/models/{repository}"


HUBS: dict[str, Callable[[], Hub]] = {"huggingface": HuggingFace, "modelscope": ModelScope}


def _upload(api: Any, parcel: Parcel, repository: str) -> None:
    """Send what was shown; both hubs name this alike."""
    api.upload_folder(
        repo_id=repository,
        folder_path=str(parcel.folder),
        repo_type="model",
        commit_message=_MESSAGE,
        allow_patterns=_patterns(parcel),
    )


def _patterns(parcel: Parcel) -> list[str]:
    """Return patterns that fit the files shown and nothing else."""
    return [glob.escape(file.name) for file in parcel.files]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    for secret in filter(None, map(os.environ.get, _TOKEN_VARIABLES)):
        text = text.replace(secret, "***")
    return _TOKEN.sub("***", text)[:_MOST_SHOWN] or type(error).__name__
