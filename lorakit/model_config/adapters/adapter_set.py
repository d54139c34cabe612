"""Adapters as plug-ins: several on one base, of which one, a mixture, or none is in use. The base never changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from lorakit.errors import AdapterError, SettingsError
from lorakit.model_config.adapters.adapter import attach_adapter, detach_adapter
from lorakit.model_config.adapters.choice import AdapterChoice
from lorakit.model_config.loading import ModelBundle

# PEFT's ways to make one adapter of several, and whether they prune.
COMBINATIONS = {"cat": False, "linear": False, "svd": False, "ties": True, "dare_linear": True, "dare_ties": True}
# What an adapter may have beside the matrices of LoRA, by PEFT's setting for it.
_NOT_ADDED_UP = {
    "modules_to_save": "layers of its own",
    "trainable_token_indices": "tokens of its own",
    "use_dora": "magnitudes (DoRA)",
    "lora_bias": "biases",
}


class AdapterSet:
    """The adapters on one base model.

    PEFT keeps them side by side in each adapted layer and computes with those that are active, so that a change of
    adapter moves no weight.

    Args:
        bundle: The base model, without an adapter.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        self._bundle = bundle
        self._slots: dict[str, str] = {}  # PEFT's names: it takes no dots, and confuses a name with one it begins
        self._loaded = 0
        self._choices: dict[str, AdapterChoice] = {}
        self._active: dict[str, float] = {}

    @property
    def bundle(self) -> ModelBundle:
        """The base model with whatever is in use."""
        return self._bundle

    @property
    def choices(self) -> tuple[AdapterChoice, ...]:
        """What is loaded, in that order."""
        return tuple(self._choices.values())

    @property
    def active(self) -> dict[str, float]:
        """The names in use, with their weights; empty for the base alone."""
        return dict(self._active)

    def load(self, choice: AdapterChoice) -> None:
        """Attach one more adapter; what is in use stays in use.

        Raises:
            SettingsError: There is one of that name.
            AdapterError: It cannot be attached; nothing has changed.
        """
        if choice.name in self._choices:
            raise SettingsError(f"an adapter called {choice.name!r} is loaded already", "give it another name")
        slot = f"slot{self._loaded:04d}"
        self._loaded += 1
        try:
            model = attach_adapter(self._bundle, choice.folder, slot)
        except AdapterError:
            detach_adapter(self._bundle.model, slot)
            self.use(self._active)
            raise
        self._bundle = replace(self._bundle, model=model)
        self._slots[choice.name] = slot
        self._choices[choice.name] = choice
        self.use(self._active)

    def unload(self, name: str) -> None:
        """Take an adapter out of memory; where it was in use, the rest of the mixture stays, or the base alone.

        Raises:
            SettingsError: There is none of that name.
        """
        self._check_names([name])
        self.use({other: weight for other, weight in self._active.items() if other != name})
        model, slot = self._bundle.model, self._slots.pop(name)
        del self._choices[name]
        if self._slots:
            detach_adapter(model, slot)
            self.use(self._active)
        else:  # the base alone, out of its wrapper
            self._bundle = replace(self._bundle, model=model.get_base_model())
            detach_adapter(self._bundle.model, slot)

    def use(self, weights: Mapping[str, float]) -> None:
        """Compute with these adapters from now on, their outputs multiplied and added; with none, as the base.

        Args:
            weights: By name.

        Raises:
            SettingsError: A name is not loaded, or the adapters cannot be mixed.
        """
        self._check_names(weights)
        model = self._bundle.model
        slots = {self._slots[name]: weight for name, weight in weights.items()}
        if len(slots) > 1:
            self._check_mixable(weights)
        if slots:
            model.active_adapter = next(iter(slots))
            model.base_model.set_adapter(list(slots), inference_mode=True)
            if not self._active:
                model.base_model.enable_adapter_layers()
            for layer in _lora_layers(model):
                for slot, weight in slots.items():
                    layer.set_scale(slot, weight)
        elif self._slots:
            model.base_model.disable_adapter_layers()
        self._active = dict(weights)

    def combine(self, weights: Mapping[str, float], combination: str, density: float) -> str:
        """Make one adapter of several by PEFT's ``add_weighted_adapter``, and use it.

        Args:
            weights: By name.
            combination: A key of `COMBINATIONS`.
            density: Share of the values kept, for those that prune.

        Returns:
            Its name, which no single adapter can have.

        Raises:
            SettingsError: PEFT cannot combine these in this way.
        """
        self._check_names(weights)
        self._check_mixable(weights)
        self.use({})
        name, slot = "+".join(weights), f"slot{self._loaded:04d}"
        self._loaded += 1
        for layer in _lora_layers(self._bundle.model):
            for source in weights:
                layer.set_scale(self._slots[source], 1.0)
        try:
            self._bundle.model.add_weighted_adapter(
                [self._slots[source] for source in weights],
                list(weights.values()),
                slot,
                combination_type=combination,
                **({"density": density} if COMBINATIONS[combination] else {}),
            )
        except (ValueError, RuntimeError) as error:  # RuntimeError: ranks that differ from layer to layer
            raise SettingsError(
                f"combination: {combination} does not go with these adapters ({error})",
                "cat and svd take adapters of different ranks",
            ) from error
        self._bundle.model.peft_config[slot].use_rslora = False  # taken from the first; its scaling is in the matrices
        for layer in _lora_layers(self._bundle.model):
            if slot in layer.scaling:
                layer.use_rslora[slot] = False
        self._slots[name] = slot
        self._choices[name] = AdapterChoice(name, next(iter(self._choices.values())).folder)
        self.use({name: 1.0})
        return name

    def tensors_of(self, name: str) -> tuple[Any, dict[str, torch.Tensor]]:
        """Return PEFT's configuration of an adapter, and its tensors by the names that PEFT's files have."""
        from peft import get_peft_model_state_dict

        self._check_names([name])
        slot, model = self._slots[name], self._bundle.model
        return model.peft_config[slot], get_peft_model_state_dict(model, adapter_name=slot)

    def slot_of(self, name: str) -> str:
        """Return PEFT's name of an adapter."""
        self._check_names([name])
        return self._slots[name]

    def _check_names(self, names: Any) -> None:
        for name in names:
            if name not in self._choices:
                loaded = ", ".join(self._choices) or "none"
                raise SettingsError(f"there is no adapter called {name!r}", f"loaded: {loaded}")

    def _check_mixable(self, names: Any) -> None:
        for name in names:
            config = self._bundle.model.peft_config[self._slots[name]]
            found = [words for setting, words in _NOT_ADDED_UP.items() if getattr(config, setting, None)]
            if found:
                raise SettingsError(f"{name!r} has {' and '.join(found)}, which cannot be added up", "use it alone")


def _lora_layers(model: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]
