"""Answers token by token on a CPU: one call of decoding.cpp for each token of all answers together.

The base's weights are read where they lie, adapters are added beside them and never merged. What is not covered is
said by `decoder_fault` or `NotCoveredError`; transformers' ``generate`` is the other way.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.nn.functional import pad

from lorakit.engine.decoding_weights import UNIT, Held, held_as_is
from lorakit.engine.half_weights import HalfLinear, activation_dtype
from lorakit.engine.kernel_build import NoKernelsError, built_decoding
from lorakit.engine.loss import base_model
from lorakit.engine.pointwise import is_known, is_silu

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_GATED = ("gate_proj", "up_proj", "down_proj")
_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_FIXED_ANGLES = frozenset({"default", "linear", "llama3", "yarn"})  # others depend on how long the text is
_LARGEST_HEAD = 1024
_UNBOUNDED = 1 << 62
_POSITIONS_AT_ONCE = 256  # the cache grows by so many


class NotCoveredError(Exception):
    """What is to be computed is not covered; says why. Caught where `generate` can do it instead."""


class _Matrix(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "bias", "a", "b", "wide_a", "wide_b")),
        *((name, ctypes.c_int64) for name in ("outputs", "inputs", "kind", "rank")),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Matrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("input_norm", "inner_norm", "query_norm", "key_norm", "keys", "values")),
        ("window", ctypes.c_int64),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        ("embedding", _Matrix),
        ("head", _Matrix),
        *((name, ctypes.c_void_p) for name in ("norm", "cos", "sin")),
        *(
            (name, ctypes.c_int64)
            for name in (
                *("layer_count", "hidden", "heads", "key_heads", "head_size", "inner", "capacity", "cache_kind"),
            )
        ),
        *((name, ctypes.c_float) for name in ("epsilon", "scaling")),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("ids", "slots", "positions", "wanted", "logits", "best")),
        *((name, ctypes.c_int64) for name in ("tokens", "answers", "threads")),
    )


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
        return self.keys.shape[3]

    @property
    def slots(self) -> int:
        """How many texts there may be."""
        return self.keys.shape[1]

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let a text begin as another one does."""
        for tensor in (self.keys, self.values):
            tensor[:, target, :, :tokens] = tensor[:, source, :, :tokens]


@dataclass(frozen=True)
class Adapters:
    """What the adapters in use add to each linear layer, by its place in the model.

    Attributes:
        factors: A [rank, inputs] and B [units, rank, 16] with its scaling.
    """

    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    def equals(self, other: Adapters) -> bool:
        """Whether the other ones are the same, number by number."""
        return self.factors.keys() == other.factors.keys() and all(
            torch.equal(mine, theirs)
            for name, pair in self.factors.items()
            for mine, theirs in zip(pair, other.factors[name], strict=True)
        )


@dataclass
class _Tables:
    """What decoding.cpp is given, and the tensors that keep its pointers valid."""

    model: _Model
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
        self._decode = _decode_function()
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
    def weight_bytes(self) -> int:
        """What one token reads of the weights."""
        for name, linear in _linears(self._base).items():
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
        step = _Step(
            *(tensor.data_ptr() for tensor in numbers),
            None if logits is None else logits.data_ptr(),
            best.data_ptr(),
            *(len(ids), len(wanted), torch.get_num_threads()),
        )
        if not self._decode(ctypes.byref(self._tables.model), ctypes.byref(step)):
            raise torch.OutOfMemoryError("no memory for the next token")
        return best.tolist(), logits

    def _new_cache(self, slots: int, capacity: int) -> KeyValueCache:
        layers = self._base.get_decoder().layers
        attention = layers[0].self_attn
        shape = (len(layers), slots, _rows(attention.k_proj) // attention.head_dim, capacity, attention.head_dim)
        return KeyValueCache(*(torch.empty(shape, dtype=self.dtype) for _ in range(2)))

    def _make_tables(self, cache: KeyValueCache) -> _Tables:
        decoder = self._base.get_decoder()
        layers = (_Layer * len(decoder.layers))()
        tables = _Tables(_Model(), layers)
        for number, (place, layer) in enumerate(zip(layers, decoder.layers, strict=True)):
            self._fill_layer(tables, place, layer, f"layers.{number}")
            place.keys, place.values = (tensor[number].data_ptr() for tensor in (cache.keys, cache.values))
        attention, config = decoder.layers[0].self_attn, self._base.config
        cos, sin = angles(decoder, torch.arange(cache.capacity), torch.float32)  # each [capacity, head size]
        model = tables.model
        model.layers = ctypes.cast(layers, ctypes.POINTER(_Layer))
        embedding = held_as_is(decoder.embed_tokens.weight.data)
        assert embedding is not None  # decoder_fault
        model.embedding.weight, model.embedding.kind = embedding.weight.data_ptr(), embedding.kind
        model.head = self._matrix(tables, "head", self._base.get_output_embeddings())
        model.norm = self._norm(tables, "norm", decoder.norm)
        model.cos, model.sin = cos.data_ptr(), sin.data_ptr()
        tables.kept += [cos, sin, embedding.weight]
        model.layer_count, model.hidden = len(layers), config.hidden_size
        model.head_size = attention.head_dim
        model.heads = _rows(attention.q_proj) // attention.head_dim
        model.key_heads = _rows(attention.k_proj) // attention.head_dim
        model.inner = _rows(decoder.layers[0].mlp.up_proj)
        model.capacity, model.cache_kind = cache.capacity, 0 if cache.keys.dtype is torch.float32 else 1
        model.epsilon, model.scaling = decoder.norm.variance_epsilon, attention.scaling
        return tables

    def _fill_layer(self, tables: _Tables, place: _Layer, layer: Any, name: str) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        fields = ("query", "key", "value", "output", "gate", "up", "down")
        linears = [getattr(attention, one) for one in _PROJECTIONS] + [getattr(mlp, one) for one in _GATED]
        for field_name, one, linear in zip(fields, (*_PROJECTIONS, *_GATED), linears, strict=True):
            setattr(place, field_name, self._matrix(tables, f"{name}.{one}", linear))
        place.input_norm = self._norm(tables, f"{name}.input", layer.input_layernorm)
        place.inner_norm = self._norm(tables, f"{name}.inner", layer.post_attention_layernorm)
        if getattr(attention, "q_norm", None) is not None:
            place.query_norm = self._norm(tables, f"{name}.query", attention.q_norm)
            place.key_norm = self._norm(tables, f"{name}.key", attention.k_norm)
        place.window = window_of(attention)

    def _matrix(self, tables: _Tables, name: str, linear: Any) -> _Matrix:
        held = self._held_matrix(name, linear)
        matrix, base = _Matrix(), getattr(linear, "base_layer", linear)
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
        return wide.data_ptr()


@cache
def _decode_function() -> Callable[..., bool]:
    decode = ctypes.CDLL(str(built_decoding())).decode
    decode.restype = ctypes.c_bool
    return decode


def decoder_fault(model: Any) -> str | None:
    """Say why a model cannot be decoded here; None if it can. decoding.cpp is compiled now if it is not in the cache.

    Adapters are looked at when answers begin.
    """
    try:
        fault = _model_fault(base_model(model))
        if fault is None:
            _decode_function()
    except (NoKernelsError, OSError) as error:
        return str(error)
    return fault


def _model_fault(base: Any) -> str | None:
    config = base.config
    if base.device.type != "cpu" or config.model_type not in _FAMILIES:
        return f"not for {base.device.type if base.device.type != 'cpu' else config.model_type}"
    decoder = base.get_decoder()
    if not all(is_known(layer) and is_silu(layer.mlp) for layer in decoder.layers):
        return "the layers are not those of the family"
    if getattr(decoder.rotary_emb, "rope_type", None) not in _FIXED_ANGLES:
        return "its positions depend on the length of the text"
    size = int(decoder.layers[0].self_attn.head_dim)
    if size > _LARGEST_HEAD or angles(decoder, torch.arange(1), torch.float32)[0].shape[-1] != size:
        return "its heads are rotated in part"
    inner = [getattr(linear, "base_layer", linear) for linear in _linears(base).values()]
    if not all(type(linear) in (torch.nn.Linear, HalfLinear) for linear in inner):
        return "its weights are held in another way"
    weights = [linear.weight.data for linear in (decoder.embed_tokens, *inner)]
    if not all(type(weight) is torch.Tensor and held_as_is(weight) is not None for weight in weights):
        return "its weights lie in another way"
    return None


def adapters_in_use(base: Any, dtype: torch.dtype) -> Adapters:
    """Copy what the adapters in use add to each linear layer.

    Args:
        base: The model, out of PEFT's wrapper.
        dtype: Of the activations.

    Raises:
        NotCoveredError: One adds more than two matrices.
    """
    factors = {}
    for name, linear in _linears(base).items():
        found = _factors(linear)
        if found:
            a = torch.cat([one for one, _ in found]).to(dtype).contiguous()  # [rank, inputs]
            b = torch.cat([other for _, other in found], dim=1)  # [outputs, rank]
            b = pad(b, (0, 0, 0, -len(b) % UNIT))
            factors[name] = (a, b.view(-1, UNIT, b.shape[1]).transpose(1, 2).to(dtype).contiguous())
    if "peft" in sys.modules:  # its import takes a second
        _check_nothing_else_is_adapted(base)
    return Adapters(factors)


def _check_nothing_else_is_adapted(base: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    covered = {id(linear) for linear in _linears(base).values()}
    for module in base.modules():
        is_other = isinstance(module, BaseTunerLayer) and id(module) not in covered and not module.disable_adapters
        if isinstance(module, AuxiliaryTrainingWrapper) or is_other:
            raise NotCoveredError("the adapter has more than the matrices of LoRA")


def _factors(linear: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return A and the scaled B, in float32, of each adapter in use on a linear layer."""
    if not hasattr(linear, "base_layer"):
        return []
    from peft.tuners.lora import Linear

    if type(linear) is not Linear or linear.merged:
        raise NotCoveredError("the adapter is not plain LoRA, or is merged")
    if linear.disable_adapters:
        return []
    found = []
    for name in linear.active_adapters:
        if name not in linear.lora_A:
            continue
        a, b = linear.lora_A[name], linear.lora_B[name]
        if name in linear.lora_variant or a.bias is not None or b.bias is not None:
            raise NotCoveredError("the adapter is not plain LoRA")
        found.append((a.weight.data.float(), b.weight.data.float() * linear.scaling[name]))
    return found


def angles(decoder: Any, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine of each position's angles, each [positions, head size]."""
    with torch.inference_mode():
        cos, sin = decoder.rotary_emb(torch.empty(1, dtype=dtype), positions[None])
    return cos[0].contiguous(), sin[0].contiguous()


def window_of(attention: Any) -> int:
    """Return how many tokens a token of an attention layer sees, itself included."""
    window = getattr(attention, "sliding_window", None)
    if window is None and attention.config.model_type == "mistral":
        window = getattr(attention.config, "sliding_window", None)
    return int(window or _UNBOUNDED)


def _linears(base: Any) -> dict[str, Any]:
    found = {}
    for number, layer in enumerate(base.get_decoder().layers):
        for part, names in ((layer.self_attn, _PROJECTIONS), (layer.mlp, _GATED)):
            found |= {f"layers.{number}.{name}": getattr(part, name) for name in names}
    return found | {"head": base.get_output_embeddings()}


def _rows(linear: Any) -> int:
    return int(getattr(linear, "base_layer", linear).weight.shape[0])


def _as_is(name: str, weight: torch.Tensor) -> Held:
    held = held_as_is(weight)
    assert held is not None  # decoder_fault
    return held
