"""Windows as large as models have them: each size takes a way of its own through the CPU kernels."""

import torch
from op_relative_bias import Sample, bias_shape, table_rows, window_inputs
from op_types import DTYPES, layouts, sum_bound, values
from support import each, same_bits

import posenc_ext
from posenc_ext import reference

SHAPES = {
    "7x7": ([7, 7], None, 0),
    "7x7 prefix": ([7, 7], None, 1),
    "5x8": ([5, 8], None, 0),
    "3x2x7": ([3, 2, 7], None, 0),
    "2x6x8 prefix": ([2, 6, 8], None, 1),
    "9x3": ([9, 3], None, 0),
    "12x12": ([12, 12], None, 0),
    "16x17 prefix": ([16, 17], None, 1),
    "3x40": ([3, 40], None, 0),
    "33": ([33], None, 0),
    "33x1": ([33, 1], None, 0),
    "1x33": ([1, 33], None, 0),
    "8x9 to 17x27": ([8, 9], [17, 27], 0),
    "8x9 to 8x10 prefix": ([8, 9], [8, 10], 1),
    "2x3x5 to 3x7x5": ([2, 3, 5], [3, 7, 5], 0),
}
HEADS = 6  # tables are turned around four heads at a time, and two are left


def inputs(name: str):
    window, query_size, prefix = SHAPES[name]
    return (
        window_inputs(window, query_size, prefix),
        table_rows(window, prefix),
        bias_shape(HEADS, *SHAPES[name]),
    )


@each("dtype", DTYPES)
@each("name", SHAPES)
def test_values_and_nothing_beyond(name, dtype):
    """The reference's bits, also from a transposed weight; memory around the result stays as it is."""
    options, rows, shape = inputs(name)
    table = values((rows, HEADS), "cpu", dtype)
    expected = reference.window_bias(table, **options)
    assert same_bits(posenc_ext.window_bias(table, **options), expected)
    assert same_bits(posenc_ext.window_bias(table.t().contiguous().t(), **options), expected)
    count, guard = expected.numel(), 64
    memory = torch.full((count + 2 * guard,), 7.0, dtype=dtype)
    out = memory[guard : guard + count].view(shape)
    torch.ops.posenc_ext.window_bias.out(table, **options, out=out)
    assert same_bits(out, expected)
    assert (memory[:guard] == 7).all()
    assert (memory[guard + count :] == 7).all()


@each("dtype", DTYPES)
@each("name", SHAPES)
def test_gradients(name, dtype):
    """Sums of the reference, in the same order whatever the gradient's strides."""
    options, rows, shape = inputs(name)
    backward = torch.ops.posenc_ext._window_bias_backward
    upstream = values(shape, "cpu", dtype, seed=3)
    actual = backward(upstream, rows, **options)
    table = torch.zeros(rows, HEADS, dtype=torch.float64, requires_grad=True)
    wide = reference.window_bias(table, **options)
    (expected,) = torch.autograd.grad(wide, table, upstream.double())
    bound = sum_bound(backward, Sample(name, {"grad": upstream, "num_rows": rows, **options}))
    if dtype in (torch.float16, torch.bfloat16):
        bound = bound + (expected.abs() + bound) * torch.finfo(dtype).eps / 2
    assert ((actual.double() - expected).abs() <= bound).all()
    for view, strided in layouts(upstream):
        if not view.startswith("expanded"):
            assert same_bits(
                backward(strided, rows, **options), backward(strided.contiguous(), rows, **options)
            ), view
