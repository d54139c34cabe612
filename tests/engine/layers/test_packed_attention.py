import pytest
import torch
from backends import backend_of_kind
from tolerances import assert_computes
from torch.nn.functional import scaled_dot_product_attention

from lorakit.engine.backends.torch import variable_length
from lorakit.engine.layers.packed_attention import NO_MASK, packed_attention
from lorakit.engine.layout import PackedLayout
from lorakit.engine.ops.attention import Packed

LENGTHS = (4, 5)


def packed(prefix_len=0):
    return Packed(PackedLayout(LENGTHS, prefix_len), backend_of_kind(False))


def tensors(tokens=9, heads=6, key_heads=2, size=8):
    torch.manual_seed(0)
    return [torch.randn(1, count, tokens, size) for count in (heads, key_heads, key_heads)]


def whole_row(query, key, value):
    """One row through torch's own attention: [1, tokens, heads, head size]."""
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.5, enable_gqa=True).transpose(1, 2)


def alone(query, key, value):
    """Each row by itself, one after the other."""
    parts = zip(*(tensor.split(LENGTHS, 2) for tensor in (query, key, value)), strict=True)
    return torch.cat([whole_row(*part) for part in parts], 1)


@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_rows_of_a_packed_row_do_not_see_each_other(dropout):
    query, key, value = tensors()
    arguments = {"scaling": 0.5, "dropout": dropout, "packed": packed()}
    output, _ = packed_attention(torch.nn.Identity(), query, key, value, NO_MASK, **arguments)
    assert_computes([output], lambda: [alone(*(tensor.double() for tensor in (query, key, value)))])


@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_a_shared_beginning_is_seen_by_every_row_and_sees_none(dropout):
    query, key, value = tensors(tokens=12)
    output, _ = packed_attention(
        torch.nn.Identity(), query, key, value, NO_MASK, scaling=0.5, dropout=dropout, packed=packed(3)
    )
    for places in ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 7, 8, 9, 10, 11]):
        whole = [tensor[:, :, places].double() for tensor in (query, key, value)]
        assert_computes([output[:, places]], lambda whole=whole: [whole_row(*whole)])


def test_a_model_that_loses_the_row_lengths_is_stopped():
    with pytest.raises(RuntimeError, match="Identity does not pass on the lengths of sequences"):
        packed_attention(torch.nn.Identity(), *tensors(), NO_MASK)


class Kernel:
    """Has the interface of a variable-length kernel and computes with torch's plain attention."""

    def __init__(self):
        self.settings = {}

    def __call__(self, query, key, value, starts, key_starts, longest, longest_key, **settings):
        assert (starts.dtype, starts.tolist()) == (torch.int32, [0, 4, 9])
        assert torch.equal(starts, key_starts)
        assert longest == longest_key == 5
        self.settings = settings
        assert query.shape == (9, 6, 8)
        return alone(*(tensor.transpose(0, 1)[None] for tensor in (query, key, value)))[0]


def test_one_call_of_a_gpu_kernel_serves_all_rows(monkeypatch):
    kernel, (query, key, value) = Kernel(), tensors()
    attend = variable_length.over_sequences(
        kernel, lambda is_grouped: {"causal": is_grouped}, scale_name="softmax_scale"
    )
    by = packed()
    monkeypatch.setattr(by.backend, "variable_length_attention", lambda query, dropout: attend)
    output, _ = packed_attention(torch.nn.Identity(), query, key, value, NO_MASK, scaling=0.5, packed=by)
    assert_computes([output], lambda: [alone(*(tensor.double() for tensor in (query, key, value)))])
    assert kernel.settings == {"causal": True, "softmax_scale": 0.5}


class OnGpu:
    """A stand-in for queries on a GPU."""

    device = torch.device("cuda", 0)

    def __init__(self, dtype=torch.bfloat16, size=64):
        self.dtype, self.shape = dtype, (1, 2, 3, size)


@pytest.mark.parametrize(
    ("query", "dropout", "capability", "is_served"),
    [
        (OnGpu(), 0, (8, 0), True),
        (OnGpu(torch.float16, size=256), 0, (9, 0), True),
        (OnGpu(), 0.1, (8, 0), False),
        (OnGpu(torch.float32), 0, (8, 0), False),
        (OnGpu(size=60), 0, (8, 0), False),
        (OnGpu(size=264), 0, (8, 0), False),
        (OnGpu(), 0, (7, 5), False),
        (torch.zeros(1, 2, 3, 64, dtype=torch.bfloat16), 0, (8, 0), False),
    ],
)
def test_a_gpu_kernel_serves_what_it_can(monkeypatch, query, dropout, capability, is_served):
    variable_length.variable_length_attention.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert (variable_length.variable_length_for(query, dropout) is not None) == is_served
    variable_length.variable_length_attention.cache_clear()


def test_pytorch_s_kernel_takes_what_it_is_given():
    """Its arguments are checked before any GPU is needed."""
    attend = variable_length.torch_variable_length_attention()
    assert attend is not None
    with torch.device("meta"):
        query, key, value = (torch.empty(1, heads, 9, 64, dtype=torch.bfloat16) for heads in (6, 2, 2))
    assert attend(query, key, value, LENGTHS, 0.5).shape == (1, 9, 6, 64)
