"""lorakit in Python: one base model that stays loaded, adapters that come and go, and training from the same object.

    >>> import lorakit
    >>> model = lorakit.load("starter", adapters={"sleep": "output/lora_model"})
    >>> answer = model.generate("如何保持良好的睡眠质量？")
    >>> model.base()
    >>> answer_of_the_base = model.generate("如何保持良好的睡眠质量？")
    >>> model.active
    {}

Every setting of docs/settings.md is a keyword. Faults are `lorakit.errors.LorakitError`, with the remedy in ``hint``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.config import Config, load_config, make_config
from lorakit.data_processing import Message
from lorakit.data_processing.example import UnusableError
from lorakit.data_processing.shapes.formats import read_conversation
from lorakit.errors import SettingsError
from lorakit.export.merging import write_merged
from lorakit.export.placing import unproven
from lorakit.export.producing import produce
from lorakit.inference import Adapters, Assistant, open_adapters
from lorakit.model_config import BASE, AdapterChoice, choose_adapters
from lorakit.runs import ADAPTER_FOLDER

if TYPE_CHECKING:
    from os import PathLike

    AdapterPaths = str | PathLike[str] | Sequence[str] | Mapping[str, str | PathLike[str]]


def load(model: str | PathLike[str] = "starter", adapters: AdapterPaths | None = None, **settings: Any) -> LoadedModel:
    """Load a base model and the adapters that go on it; the first one is in use.

    Args:
        model: ``starter``, a folder, or a hub name.
        adapters: A path, several, or paths by name; a path may end in ``:WEIGHT``. None: the base alone.
        settings: Any setting, such as ``torch_dtype="float32"`` or ``max_new_tokens=64``.

    Raises:
        LorakitError: A setting, the model or an adapter is not what it should be.

    >>> model = lorakit.load("starter", adapters="output/lora_model", max_new_tokens=64)
    >>> model.adapters
    ('output',)
    """
    values = {"model_name_or_path": str(model), "validation_file": None, **settings}
    listed = _listed(adapters)
    values |= {"lora_model_path": listed} if listed else {"use_original_model": True}
    config = make_config(values, "lorakit.load")
    return LoadedModel(open_adapters(config), config)


class LoadedModel:
    """A base model in memory, with its adapters; made by `load`."""

    def __init__(self, adapters: Adapters, config: Config) -> None:
        self._adapters = adapters
        self._config = config

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of what is loaded."""
        return tuple(choice.name for choice in self._adapters.choices)

    @property
    def active(self) -> dict[str, float]:
        """The names in use with their weights; empty for the base model."""
        return self._adapters.active

    def generate(
        self,
        question: str | Sequence[Mapping[str, Any]],
        images: Sequence[str] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> str:
        """Answer a question, as the adapter in use was trained to be asked.

        Args:
            question: A question, or a conversation of ``{"role": ..., "content": ...}`` that ends with one, or with the
                result of a call.
            images: Paths of pictures that a question is about; ``<image>`` marks in the text of a conversation say
                where they belong.
            tools: That may be called; `lorakit.inference.CallReader` finds the calls in the answer.
            settings: Of the generation: ``max_new_tokens``, ``temperature``, ``top_p``, ``repetition_penalty``.

        Raises:
            LorakitError: The question does not fit the model, or a picture cannot be read.

        >>> question = "如何保持良好的睡眠质量？"
        >>> answer = model.generate(question, max_new_tokens=8)
        >>> told = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        >>> shorter = model.generate([*told, {"role": "user", "content": "再短一点。"}], max_new_tokens=8)
        """
        from lorakit.inference.generation import answer_batch
        from lorakit.inference.sampling import SamplingParams

        if other := sorted(set(settings) - _OF_GENERATION):
            raise SettingsError(f"generate: takes no {other[0]}", f"it takes {', '.join(sorted(_OF_GENERATION))}")
        params = SamplingParams.of(self._with(settings, "generate"))
        assistant = self._adapters.assistant
        takes_pictures = assistant.chat_format.images is not None
        return answer_batch(assistant, [_conversation(question, tuple(images), tools, takes_pictures)], params)[0]

    def use(self, name: str) -> None:
        """Answer with one adapter from now on."""
        self._adapters.use(name)

    def base(self) -> None:
        """Answer as the base model from now on."""
        self._adapters.base()

    def using(self, name: str) -> AbstractContextManager[Assistant]:
        """Answer with one adapter, or with ``base``, inside a ``with`` block.

        >>> with model.using("base"):
        ...     answer = model.generate("如何保持良好的睡眠质量？", max_new_tokens=8)
        """
        return self._adapters.using(name)

    def mix(self, weights: Mapping[str, float]) -> None:
        """Answer with the weighted sum of several adapters from now on.

        >>> name = model.load("output/lora_model", name="again")
        >>> model.mix({"sleep": 0.7, "again": 0.3})
        >>> model.active
        {'sleep': 0.7, 'again': 0.3}
        """
        self._adapters.mix(weights)

    def load(self, path: str | PathLike[str], name: str | None = None) -> str:
        """Load one more adapter; what is in use stays so.

        Returns:
            Its name: by default that of its folder, or of the run's.

        >>> model.load("output/lora_model", name="second")
        'second'
        """
        choice = _choice(path, name)
        self._adapters.load(choice)
        return choice.name

    def unload(self, name: str) -> None:
        """Take an adapter out of memory.

        >>> name = model.load("output/lora_model", name="third")
        >>> model.unload(name)
        >>> model.adapters
        ('sleep',)
        """
        self._adapters.unload(name)

    def train(self, config: str | PathLike[str] | Mapping[str, Any] | Config, name: str | None = None) -> str:
        """Train an adapter for this base as ``--task train`` does, load it, and answer with it.

        The base is loaded a second time for as long as this takes; its files are mapped into memory, so they count
        once where the number format is theirs.

        Args:
            config: A file of settings, the settings themselves, or a `Config`. The base is always this one.
            name: Of the adapter; None takes that of the run's folder.

        Returns:
            The adapter's name.

        Raises:
            LorakitError: As ``--task train``; also where the run was interrupted.

        >>> settings = {"train_file": "data/train.json", "validation_file": None, "output_dir": "output/second"}
        >>> model.train({**settings, "num_train_epochs": 1, "max_rows": 2, "max_new_tokens": 2})
        [...]
        'second'
        """
        from lorakit.train.training import run

        same = {name: getattr(self._config, name) for name in _OF_THE_BASE}
        settings = _read(config).model_copy(update=same)
        folder = Path(settings.output_dir) / ADAPTER_FOLDER
        if (chosen := _choice(folder, name).name) in self.adapters:
            raise SettingsError(
                f"train: an adapter called {chosen!r} is loaded already", "give it a name, or unload that"
            )
        if run(settings) != 0:
            raise SettingsError("train: was interrupted", f"set resume=True to go on in {settings.output_dir!r}")
        loaded = self.load(folder, name)
        self.use(loaded)
        return loaded

    def merge(self, path: str | PathLike[str], **settings: Any) -> None:
        """Write what is in use as a full model, read it back, and prove that it is the same.

        Args:
            path: Of the folder.
            settings: ``validation_file`` with the questions of the proof, ``proof_questions``, ``export_dtype``.

        Raises:
            ProofError: It is not the same; it stays in ``path + ".unproven"``.
            LorakitError: No adapter is in use, or the folder holds other files.

        >>> model.merge("output/merged", validation_file="data/validation.json", proof_questions=2, max_new_tokens=4)
        proof[...]
        """
        if not self.active:
            raise SettingsError("merge: no adapter is in use", "choose one with use() or mix()")
        config = self._with({"export_dir": str(path), **settings}, "merge")
        if config.validation_file is None and "train_file" not in settings:
            raise SettingsError("merge: the proof needs questions", 'give validation_file="data/validation.json"')
        with unproven(Path(path)) as writing:
            produce(self._adapters, config, writing, write_merged, closes=False)

    def _with(self, settings: Mapping[str, Any], place: str) -> Config:
        return make_config(self._config.model_dump() | dict(settings), place)


_OF_THE_BASE = ("model_name_or_path", "model_hub", "trust_remote_code")
_OF_GENERATION = {"max_new_tokens", "temperature", "top_p", "repetition_penalty"}


def _choice(path: str | PathLike[str], name: str | None) -> AdapterChoice:
    chosen = choose_adapters([str(path)], "load")[0]
    return chosen if name is None else replace(chosen, name=name)


def _listed(adapters: AdapterPaths | None) -> list[str]:
    if adapters is None:
        return []
    if isinstance(adapters, Mapping):
        return [f"{name}={path}" for name, path in adapters.items()]
    if isinstance(adapters, Sequence) and not isinstance(adapters, str):
        return [str(path) for path in adapters]
    return [str(adapters)]


def _conversation(
    question: str | Sequence[Mapping[str, Any]], images: tuple[str, ...], tools: Any, takes_pictures: bool
) -> list[Message]:
    asked = [{"role": "user", "content": question}] if isinstance(question, str) else question
    if not isinstance(asked, Sequence) or not all(isinstance(turn, Mapping) for turn in asked):
        raise SettingsError(f"generate: {type(question).__name__}: is no question and no list of turns", _TURN)
    try:
        messages = read_conversation(asked, tools, images, takes_pictures)
    except UnusableError as error:
        raise SettingsError(f"generate: {error}", _TURN) from error
    if not messages or messages[-1].role not in {"user", "tool"}:
        raise SettingsError("generate: a conversation ends with a question of the user, or the result of a call", _TURN)
    return messages


_TURN = 'write {"role": "user", "content": "..."}; docs/data.md has all that a turn may be'


def _read(config: str | PathLike[str] | Mapping[str, Any] | Config) -> Config:
    if isinstance(config, Config):
        return config
    return make_config(dict(config), "train") if isinstance(config, Mapping) else load_config(str(config), {}, [])


__all__ = ["BASE", "LoadedModel", "load"]
