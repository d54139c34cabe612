"""Answers token by token on a CPU: one call of decoding.cpp for each token of all answers together.

The base's weights are read where they lie, adapters are added beside them and never merged. What is not covered is
said by `decoder_fault` or `NotCoveredError`; transformers' ``generate`` is the other way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lorakit.engine.decoder.coverage import (
    GATED,
    PROJECTIONS,
    Adapters,
    adapters_in_use,
    angles,
    decode_function,
    linears,
    outputs_of,
    window_of,
)
from lorakit.engine.decoder.tables import Layer, Matrix, Model, Step
from lorakit.engine.decoder.weights import Held, held_as_is
from lorakit.engine.layers.attach import base_model
from lorakit.engine.layers.half_weights import activation_dtype

_POSITIONS_AT_ONCE = 256  # the cache grows by so many


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of several texts.

    Attributes:
        keys: [layers, slots, key heads, capacity, head size]
        values: [layers, slots, key heads, capacity, head size]
    """

    keys: torch.Tensor
    values: torch.Tensor

    @property
    def capacity(self) -> int:
        """How many tokens a text may have."""
        return int(self.keys.shape[3])

    @property
    def slots(self) -> int:
        """How many texts there may be."""
        return int(self.keys.shape[1])

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let a text begin as another one does."""
        for tensor in (self.keys, self.values):
            tensor[:, target, :, :tokens] = tensor[:, source, :, :tokens]


@dataclass
class _Tables:
    """What decoding.cpp is given, and the tensors that keep its pointers valid."""

    model: Model
    layers: Any
    kept: list[torch.Tensor] = field(default_factory=list)


class Decoder:
    """Computes a model's next tokens.

    Args:
        model: A causal language model of transformers for which `decoder_fault` is None, with or without PEFT's
            wrapper; adapters may come and go.
        hold: Gives a matrix the form in which it is read, from its place in the model and its weight; None: as it is.
    """

    def __init__(self, model: Any, hold: Callable[[str, torch.Tensor], Held] | None = None) -> None:
        self._decode = decode_function()
        self._base = base_model(model)
        self._hold = hold or _as_is
        self._held: dict[str, Held] = {}
        self._norms: dict[str, torch.Tensor] = {}
        self.dtype = activation_dtype(self._base)
        self._adapters: Adapters | None = None
        self.cache: KeyValueCache | None = None
        self.known: list[list[int]] = []  # the tokens whose keys and values each slot of the cache has

    @property
    def base(self) -> Any:
        """The model, out of PEFT's wrapper."""
        return self._base

    @property
    def is_packed(self) -> bool:
        """Whether weights are read in fewer bits. What comes of a text then depends on no other, to the last bit."""
        return any(held.scale is not None for held in self._held.values())

    @property
    def weight_bytes(self) -> int:
        """What one token reads of the weights."""
        for name, linear in linears(self._base).items():
            self._held_matrix(name, linear)
        return sum(held.nbytes for name, held in self._held.items())

    def open(self, slots: int, capacity: int) -> None:
        """Take up the adapters in use now, and make room for so many texts of so many tokens.

        What the cache knows stays, as far as the adapters are those of before.

        Raises:
            NotCoveredError: The adapters are of a kind that is not covered.
        """
        adapters = adapters_in_use(self._base, self.dtype)
        is_same = self._adapters is not None and self._adapters.equals(adapters)
        before, known = (self.cache, self.known) if is_same else (None, [])
        if before is not None and before.slots >= slots and before.capacity >= capacity:
            return
        if not is_same:
            self._adapters = adapters
        self.cache = self._new_cache(slots, -(-capacity // _POSITIONS_AT_ONCE) * _POSITIONS_AT_ONCE)
        self.known = [[] for _ in range(slots)]
        if before is not None and known[0]:  # the common beginning is the first one's
            tokens = min(len(known[0]), capacity)
            for new, old in ((self.cache.keys, before.keys), (self.cache.values, before.values)):
                new[:, 0, :, :tokens] = old[:, 0, :, :tokens]
            self.known[0] = known[0][:tokens]
        self._tables = self._make_tables(self.cache)

    def step(
        self,
        ids: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int] | None = None,
        wants_logits: bool = False,
    ) -> tuple[list[int], torch.Tensor | None]:
        """Compute some tokens; those of one text in their order.

        Args:
            ids: The tokens.
            slots: Of the cache, one for each.
            positions: In their texts.
            wanted: Which of them are to predict the next one; None for all.
            wants_logits: Whether all logits are wanted.

        Returns:
            The likeliest next token for each that is wanted (-1 where the logits are no numbers), and the logits
            [wanted, vocabulary] in float32.
        """
        wanted = range(len(ids)) if wanted is None else wanted
        numbers = [torch.tensor(list(values), dtype=torch.int64) for values in (ids, slots, positions, wanted)]
        best = torch.empty(len(wanted), dtype=torch.int64)
        vocabulary = self._tables.model.head.outputs
        logits = torch.empty(len(wanted), vocabulary) if wants_logits else None
        step = Step(
            *(tensor.data_ptr() for tensor in numbers),
            None if logits is None else logits.data_ptr(),
            best.data_ptr(),
            *(len(ids), len(wanted)),
        )
        self._decode(ctypes.addressof(self._tables.model), ctypes.addressof(step))
        return best.tolist(), logits

    def _new_cache(self, slots: int, capacity: int) -> KeyValueCache:
        layers = self._base.get_decoder().layers
        attention = layers[0].self_attn
        shape = (len(layers), slots, outputs_of(attention.k_proj) // attention.head_dim, capacity, attention.head_dim)
        return KeyValueCache(*(torch.empty(shape, dtype=self.dtype) for _ in range(2)))

    def _make_tables(self, cache: KeyValueCache) -> _Tables:
        decoder = self._base.get_decoder()
        layers = (Layer * len(decoder.layers))()
        tables = _Tables(Model(), layers)
        for number, (place, layer) in enumerate(zip(layers, decoder.layers, strict=True)):
            self._fill_layer(tables, place, layer, f"layers.{number}")
            place.keys, place.values = (tensor[number].data_ptr() for tensor in (cache.keys, cache.values))
        attention, config = decoder.layers[0].self_attn, self._base.config
        cos, sin = angles(decoder, torch.arange(cache.capacity), torch.float32)  # each [capacity, head size]
        model = tables.model
        model.layers = ctypes.cast(layers, ctypes.POINTER(Layer))
        embedding = held_as_is(decoder.embed_tokens.weight.data)
        assert embedding is not None  # decoder_fault
        model.embedding.weight, model.embedding.kind = embedding.weight.data_ptr(), embedding.kind
        model.head = self._matrix(tables, "head", self._base.get_output_embeddings())
        model.norm = self._norm(tables, "norm", decoder.norm)
        model.cos, model.sin = cos.data_ptr(), sin.data_ptr()
        tables.kept += [cos, sin, embedding.weight]
        model.layer_count, model.hidden = len(layers), config.hidden_size
        model.head_size = attention.head_dim
        model.heads = outputs_of(attention.q_proj) // attention.head_dim
        model.key_heads = outputs_of(attention.k_proj) // attention.head_dim
        model.inner = outputs_of(decoder.layers[0].mlp.up_proj)
        model.capacity, model.cache_kind = cache.capacity, 0 if cache.keys.dtype is torch.float32 else 1
        model.epsilon, model.scaling = decoder.norm.variance_epsilon, attention.scaling
        return tables

    def _fill_layer(self, tables: _Tables, place: Layer, layer: Any, name: str) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        fields = ("query", "key", "value", "output", "gate", "up", "down")
        linears = [getattr(attention, one) for one in PROJECTIONS] + [getattr(mlp, one) for one in GATED]
        for field_name, one, linear in zip(fields, (*PROJECTIONS, *GATED), linears, strict=True):
            setattr(place, field_name, self._matrix(tables, f"{name}.{one}", linear))
        place.input_norm = self._norm(tables, f"{name}.input", layer.input_layernorm)
        place.inner_norm = self._norm(tables, f"{name}.inner", layer.post_attention_layernorm)
        if getattr(attention, "q_norm", None) is not None:
            place.query_norm = self._norm(tables, f"{name}.query", attention.q_norm)
            place.key_norm = self._norm(tables, f"{name}.key", attention.k_norm)
        place.window = window_of(attention)

    def _matrix(self, tables: _Tables, name: str, linear: Any) -> Matrix:
        held = self._held_matrix(name, linear)
        matrix, base = Matrix(), getattr(linear, "base_layer", linear)
        matrix.weight, matrix.kind = held.weight.data_ptr(), held.kind
        matrix.outputs, matrix.inputs = base.weight.shape
        if held.scale is not None:
            matrix.scale = held.scale.data_ptr()
        if base.bias is not None:
            bias = base.bias.data.float().contiguous()
            matrix.bias = bias.data_ptr()
            tables.kept.append(bias)
        assert self._adapters is not None  # open
        if name in self._adapters.factors:
            a, b = self._adapters.factors[name]
            matrix.rank = len(a)
            if a.dtype is torch.float32:
                matrix.wide_a, matrix.wide_b = a.data_ptr(), b.data_ptr()
            else:
                matrix.a, matrix.b = a.data_ptr(), b.data_ptr()
        return matrix

    def _held_matrix(self, name: str, linear: Any) -> Held:
        if name not in self._held:
            self._held[name] = self._hold(name, getattr(linear, "base_layer", linear).weight.data)
        return self._held[name]

    def _norm(self, tables: _Tables, name: str, norm: Any) -> int:
        wide = norm.weight.data.float().contiguous()
        tables.kept.append(wide)
        return int(wide.data_ptr())


def _as_is(name: str, weight: torch.Tensor) -> Held:
    held = held_as_is(weight)
    assert held is not None  # decoder_fault
    return held
