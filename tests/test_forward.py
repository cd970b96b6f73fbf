"""Values of every op against its reference, and the shapes, strides and dtypes that Meta promises."""

import pytest
import torch
from op_db import OPS
from op_types import DTYPES, layouts, packed, values
from support import check_against_reference, each, same, same_bits, seed, walk

import posenc_ext


@walk()
def test_values_are_those_of_the_reference(op, sample):
    actual = op(sample)
    check_against_reference(op, sample, actual)
    if not (op.writes_out or op.in_place):
        assert actual.is_contiguous()


@walk(dtypes=(torch.float32,), keep=lambda op, sample: op.wrapper)
def test_wrapper_is_the_op(op, sample):
    seed(1)
    expected = op(sample)
    seed(1)
    assert same(op, op.wrapper(**sample.inputs), expected)


@walk(dtypes=(torch.float32, torch.bfloat16))
def test_meta_gives_shape_stride_and_dtype(op, sample):
    actual = op(sample)
    moved = {name: tensor.to("meta") for name, tensor in sample.tensors().items()}
    if "device" in sample.inputs:
        moved["device"] = torch.device("meta")
    promised = op(sample, **moved)
    assert promised.is_meta
    assert (promised.shape, promised.dtype) == (actual.shape, actual.dtype)
    if not op.writes_out:
        assert promised.stride() == actual.stride()


def reads_tensors(op, sample):
    return bool(sample.tensors()) and not op.writes_out


@walk(dtypes=(torch.float16,), keep=reads_tensors)
def test_arguments_are_left_alone(op, sample):
    before = {name: tensor.clone() for name, tensor in sample.tensors().items()}
    op(sample)
    assert all(same_bits(tensor, before[name]) for name, tensor in sample.tensors().items())


@walk(dtypes=(torch.float32,))
def test_positional_arguments_and_defaults(op, sample):
    """What the schema lets stand without a name can stand so, and a default can be left out."""
    positional, named = [], {}
    inputs = op.separate(sample.inputs)
    for argument in op.overload._schema.arguments:
        value = inputs[argument.name]
        if argument.kwarg_only:
            if not argument.has_default_value() or value != argument.default_value:
                named[argument.name] = value
        else:
            positional.append(value)
    assert same(op, packed(op.overload(*positional, **named)), op(sample))


@pytest.mark.parametrize("op", [op for op in OPS if op.differentiable], ids=lambda op: op.name)
def test_negative_views(op):
    """A tensor that holds its negation lazily is read as what it says."""
    sample = next(sample for sample in op.samples("cpu", torch.float64) if sample.name == op.costly[0])
    lazy = {name: torch._neg_view(-sample.tensors()[name]) for name in op.gradients(sample)}
    assert all(tensor.is_neg() for tensor in lazy.values())
    assert same(op, op(sample, **lazy), op(sample))


def test_default_dtype():
    positions = torch.arange(3)
    torch.set_default_dtype(torch.float64)
    assert posenc_ext.sinusoidal(positions, 4).dtype is torch.float64
    assert posenc_ext.sinusoidal_table(2, 4).dtype is torch.float64
    torch.set_default_dtype(torch.bfloat16)
    assert posenc_ext.sinusoidal(positions, 4).dtype is torch.bfloat16
    assert posenc_ext.sinusoidal_table(2, 4).dtype is torch.bfloat16
    assert posenc_ext.sinusoidal(positions.to(torch.float32), 4).dtype is torch.float32


@each("dtype", DTYPES)
def test_out_writes_its_tensor_and_nothing_else(dtype):
    expected = posenc_ext.sinusoidal_table(6, 10, start=3, dtype=dtype)
    memory = torch.full((8, 24), 7.0, dtype=dtype)
    out = memory[1:7, 2:22:2]
    result = torch.ops.posenc_ext.sinusoidal_table.out(6, 10, start=3, out=out)
    assert result is out
    assert same_bits(out, expected)
    out.fill_(7.0)
    assert torch.equal(memory, torch.full_like(memory, 7.0))


def add_out(x, start, **options):
    """add_sinusoidal's overload with out, for an int or a tensor."""
    packet = torch.ops.posenc_ext.add_sinusoidal
    return (packet.offsets_out if isinstance(start, torch.Tensor) else packet.out)(x, start=start, **options)


@each("start", [3, torch.tensor([5, 0])], ids=["start", "offsets"])
@each("dtype", DTYPES)
def test_add_in_place(dtype, start):
    """out may be x itself, in any layout; of the rest of its memory nothing is written."""
    for _, x in layouts(values((2, 5, 22), "cpu", dtype)):
        if 0 in x.stride():
            continue
        expected = posenc_ext.add_sinusoidal(x, start=start, x_scale=1.5)
        memory = torch.empty(0, dtype=dtype).set_(x.untyped_storage())
        around = torch.empty(0, dtype=dtype).set_(x.untyped_storage().clone())
        assert add_out(x, start, x_scale=1.5, out=x) is x
        assert same_bits(x, expected)
        x.fill_(0), around.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(0)
        assert same_bits(memory, around)


def test_out_that_overlaps_an_input_is_an_error_or_safe():
    memory = torch.randn(2 * 5 * 22 + 22)
    x, shifted = memory[:-22].view(2, 5, 22), memory[22:].view(2, 5, 22)
    crossed = torch.randn(2, 22, 22)
    embed = torch.ops.posenc_ext.add_position_embedding.out
    pos = torch.randn(5, 22)
    for call, text in (
        (lambda: add_out(x, 0, out=shifted), "add_sinusoidal: out must not overlap x"),
        (lambda: add_out(crossed, 0, out=crossed.mT), "add_sinusoidal: out must not overlap x"),
        (lambda: embed(x, pos, [], out=shifted), "add_position_embedding: out must not overlap x"),
        (lambda: embed(x, pos, [], out=x), "add_position_embedding: out must not overlap x"),
        (lambda: embed(x[:1], pos, [], out=pos[None]), "out must not overlap pos_embed"),
    ):
        with pytest.raises(RuntimeError, match=text):
            call()
    spread = torch.randn(2, 5, 44)  # interleaved with each other: nothing is shared, and nothing is lost
    even, odd = spread[..., ::2], spread[..., 1::2]
    expected = posenc_ext.add_sinusoidal(even)
    assert same_bits(add_out(even, 0, out=odd), expected)
    out = torch.randn(3, 5, 22)
    expanded = out[:1].expand(3, 5, 22)  # its memory is a part of out
    expected = posenc_ext.add_sinusoidal(expanded, start=1)
    assert same_bits(add_out(expanded, 1, out=out), expected)


def test_out_takes_no_part_in_autograd():
    x, pos = torch.randn(2, 3, 4), torch.randn(3, 4)
    out, leaf = torch.empty(2, 3, 4), torch.randn(2, 3, 4, requires_grad=True)
    embed = torch.ops.posenc_ext.add_position_embedding.out
    rule = "with out, no argument may require grad, got one that does"
    for call, op in (
        (lambda: add_out(leaf, 0, out=out), "add_sinusoidal"),
        (lambda: add_out(leaf, torch.tensor([0, 1]), out=out), "add_sinusoidal"),
        (lambda: embed(leaf, pos, [], out=out), "add_position_embedding"),
        (lambda: embed(x, pos.clone().requires_grad_(), [], out=out), "add_position_embedding"),
        (lambda: embed(x[:, 1:], pos, [leaf[:, :1]], out=out), "add_position_embedding"),
    ):
        with pytest.raises(RuntimeError, match=f"posenc_ext::{op}: {rule}"):
            call()
        with torch.no_grad():
            call()


def test_out_drops_as_the_functional_op_does():
    x, pos = torch.randn(2, 3, 16), torch.randn(3, 16)
    for call in (
        lambda **o: torch.ops.posenc_ext.add_sinusoidal(x, dropout_p=0.5, training=True, **o),
        lambda **o: torch.ops.posenc_ext.add_sinusoidal(
            x, start=torch.tensor([3, 4]), dropout_p=0.5, training=True, **o
        ),
        lambda **o: torch.ops.posenc_ext.add_position_embedding(
            x, pos, [], dropout_p=0.5, training=True, **o
        ),
    ):
        torch.manual_seed(3)
        expected = call()
        torch.manual_seed(3)
        assert same_bits(call(out=torch.empty(2, 3, 16)), expected)


def test_out_is_resized():
    out = torch.empty(0)
    torch.ops.posenc_ext.sinusoidal_table.out(5, 6, out=out)
    assert same_bits(out, posenc_ext.sinusoidal_table(5, 6))


def test_out_of_a_wrong_shape_or_layout_is_an_error():
    """Silently resizing or half-writing a table that the caller holds would be worse."""
    table = torch.ops.posenc_ext.sinusoidal_table.out
    for out, text in (
        (torch.empty(5, 7), "out must be empty or have shape [5, 6], got [5, 7]"),
        (torch.empty(6).expand(5, 6), "out must not overlap itself, got strides [0, 1]"),
        (torch.empty(5, 6).requires_grad_(), "out must not require grad, got a tensor that does"),
        (
            torch.empty(5, 6, dtype=torch.int32),
            "dtype must be float64, float32, float16 or bfloat16, got Int",
        ),
    ):
        with pytest.raises(RuntimeError) as caught:
            table(5, 6, out=out)
        assert str(caught.value) == f"posenc_ext::sinusoidal_table: {text}"


@each("dtype", DTYPES)
@each(
    ("dim", "layout", "odd", "beside"),
    [
        (512, "interleaved", "error", 0),
        (512, "concat", "error", 0),
        (512, "concat_cos_first", "error", 64),
        (512, "interleaved", "error", 1),
        (500, "concat", "error", 12),
        (509, "interleaved", "sin", 0),
        (513, "concat", "zero", 63),
    ],
)
def test_large_tables_into_touched_memory(dim, layout, odd, beside, dtype):
    """Rows that are written past the caches, where they are whole lines, between elements that stay."""
    length, start, spec = 4200, -100, {"layout": layout, "odd": odd}
    memory = torch.full((length, dim + beside), 7.0, dtype=dtype)
    out = memory[:, :dim]
    torch.ops.posenc_ext.sinusoidal_table.out(length, dim, start=start, **spec, out=out)
    for first in range(0, length, 600):
        piece = posenc_ext.sinusoidal_table(600, dim, start=start + first, **spec, dtype=dtype)
        assert same_bits(out[first : first + 600], piece)
    positions = torch.arange(start, start + length)
    again = torch.full((length, dim + beside), 7.0, dtype=dtype)
    torch.ops.posenc_ext.sinusoidal.out(positions, dim, **spec, out=again[:, :dim])
    if dtype != torch.float64:  # whose tables and positions are computed alike, but on other paths
        assert (again[:, :dim] != out).sum() <= 2
    else:
        assert same_bits(again[:, :dim].contiguous(), out.contiguous())
    assert (memory[:, dim:] == 7.0).all()
    assert (again[:, dim:] == 7.0).all()


@each("rows", [32, 100])
def test_large_gather_into_touched_memory(rows):
    """Results that are written past the caches: lines that begin at any byte, between bytes that stay."""
    table, index = torch.randn(rows, 12), torch.randint(0, rows, (2, 481, 483))
    memory = torch.full((2 * 12 * 481 * 483 + 2,), 7.0)
    out = memory[1:-1].view(2, 12, 481, 483)
    assert out.nbytes > 2**24
    torch.ops.posenc_ext.gather_bias.out(table, index, out=out)
    assert torch.equal(out, table[index].permute(0, 3, 1, 2))
    assert memory[0] == memory[-1] == 7.0


def test_out_must_not_be_the_memory_of_the_index():
    memory = torch.zeros(72, dtype=torch.int32)
    index, out = memory[:24].view(2, 3, 4), memory.view(torch.float32).view(2, 3, 3, 4)
    with pytest.raises(RuntimeError, match="gather_bias: out must not overlap index"):
        torch.ops.posenc_ext.gather_bias.out(torch.ones(1, 3), index, out=out)


@each("dtype", DTYPES)
@each("padding", range(1, 9))
def test_no_read_or_write_outside_of_views(dtype, padding):
    """Operands that end at any byte offset, between NaNs, give results without NaN."""
    x = torch.full((2 * padding + 2 * 3 * 14,), float("nan"), dtype=dtype)
    view = x[padding:-padding].view(2, 3, 14).fill_(0.5)
    assert not posenc_ext.add_sinusoidal(view).isnan().any()
    table = torch.full((2 * padding + 15 * 3,), float("nan"), dtype=dtype)
    view = table[padding:-padding].view(15, 3).fill_(0.5)
    assert (posenc_ext.window_bias(view, [2, 3]) == 0.5).all()
    grad = torch.full((2 * padding + 3 * 36,), float("nan"), dtype=dtype)
    view = grad[padding:-padding].view(3, 6, 6).fill_(0.5)
    back = torch.ops.posenc_ext._window_bias_backward(view, 15, [2, 3])
    assert back.sum().item() == 0.5 * 3 * 36


@each("dtype", DTYPES)
def test_bias_into_memory_that_lies_between_its_tables_rows(dtype):
    """No overlap, but one storage: nothing of the table may be lost, nor anything else be written."""
    memory = torch.full((15, 64), 7.0, dtype=dtype)
    table, out = memory[:, 60:63], memory[:6, :18].unflatten(1, (3, 6)).transpose(0, 1)
    table.copy_(torch.arange(100.0, 145.0).view(15, 3))
    expected = posenc_ext.window_bias(table.clone(), [2, 3])
    assert torch.ops.posenc_ext.window_bias.out(table, [2, 3], out=out) is out
    assert same_bits(out, expected)
    assert (memory == 7).sum() == memory.numel() - 45 - out.numel()
