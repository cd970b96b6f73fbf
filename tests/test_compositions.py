"""The compositions against their formulas; tests/parity has the libraries they follow."""

import doctest
import itertools
import math
import re

import pytest
import torch
from support import each, same_bits
from torch.nn import functional as F

import posenc_ext
from posenc_ext import compositions
from posenc_ext._resampling import resample_grid
from posenc_ext.reference import round_once

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
scripted = pytest.mark.filterwarnings("ignore:`torch.jit")


def same_values(actual, exact):
    """Whether `actual` is the float64 `exact` rounded once; in float64 to the angle's error."""
    if actual.dtype == torch.float64:
        torch.testing.assert_close(actual, exact, rtol=0, atol=1e-14)
        return True
    return same_bits(actual.contiguous(), round_once(exact, actual.dtype))


# Padding


def positions_one_by_one(tokens, padding_idx, past_length):
    rows = []
    for row in tokens.tolist():
        seen, positions = past_length, []
        for token in row:
            seen += token != padding_idx
            positions.append(padding_idx + (seen if token != padding_idx else 0))
        rows.append(positions)
    return rows


@each("dtype", [torch.int64, torch.int32, torch.uint8])
@each(("padding_idx", "past_length"), [(0, 0), (1, 0), (3, 7)])
def test_padding_positions(dtype, padding_idx, past_length):
    tokens = torch.randint(0, 5, (6, 9)).to(dtype)
    for given in (tokens, tokens.t().contiguous().t(), tokens[:, :0]):
        actual = posenc_ext.padding_positions(given, padding_idx, past_length)
        assert actual.dtype == torch.int64
        assert actual.tolist() == positions_one_by_one(given, padding_idx, past_length)


def test_padding_positions_with_a_cache_of_each_sample():
    tokens = torch.randint(0, 3, (4, 6))
    past = torch.tensor([3, 0, 7, 1])
    expected = [
        positions_one_by_one(row[None], 1, n)[0] for row, n in zip(tokens, past.tolist(), strict=True)
    ]
    for given in (past, past.unsqueeze(1), past.to(torch.uint8)):
        assert posenc_ext.padding_positions(tokens, 1, given).tolist() == expected
    for given in (torch.tensor(5), torch.tensor([5])):
        assert posenc_ext.padding_positions(tokens, 1, given).tolist() == positions_one_by_one(tokens, 1, 5)


# Grids, one cell and one axis at a time


def waves(position, channels, base):
    """Sines and cosines of one coordinate, in float64: two lists of channels / 2."""
    pairs = channels // 2
    angles = [position * base ** (-j / pairs) for j in range(pairs)]
    return [math.sin(a) for a in angles], [math.cos(a) for a in angles]


def cell_of_mae(position, dim, base):
    (sy, cy), (sx, cx) = (waves(p, dim // 2, base) for p in position)
    return sx + cx + sy + cy


def cell_of_cogvideox(position, dim, base):
    st, ct = waves(position[0], dim // 4, base)
    return st + ct + cell_of_mae(position[1:], dim * 3 // 4, base)


def cell_of_timm(position, dim, base):
    (sy, cy), (sx, cx) = (waves(p, dim // 2, base) for p in position)
    return sy + sx + cy + cx


def cell_of_mocov3(position, dim, base):
    (sy, cy), (sx, cx) = (waves(p, dim // 2, base) for p in position)
    return sy + cy + sx + cx


def cell_of_monai(position, dim, base):
    row = []
    for p in [position[1], position[0], *position[2:]]:
        sines, cosines = waves(p, dim // len(position), base)
        row += sines + cosines
    return row


def cell_of_positional_encodings(position, dim, base):
    channels = 2 * math.ceil(dim / (2 * len(position)))
    row = []
    for p in position:
        for pair in zip(*waves(p, channels, base), strict=True):
            row += pair
    return row[:dim]


ORDERS = each(
    ("order", "cell", "size", "dim"),
    [
        ("mae", cell_of_mae, [3, 5], 16),
        ("cogvideox", cell_of_cogvideox, [2, 3, 4], 32),
        ("timm", cell_of_timm, [3, 5], 16),
        ("timm_interleaved", cell_of_mocov3, [3, 5], 16),
        ("mocov3", cell_of_mocov3, [3, 5], 16),
        ("monai", cell_of_monai, [3, 5], 16),
        ("monai", cell_of_monai, [2, 3, 4], 18),
        ("positional_encodings", cell_of_positional_encodings, [7], 5),
        ("positional_encodings", cell_of_positional_encodings, [3, 5], 10),
        ("positional_encodings", cell_of_positional_encodings, [2, 3, 4], 20),
        ("positional_encodings", cell_of_positional_encodings, [2, 3, 4], 3),
    ],
)


@ORDERS
@each("dtype", DTYPES)
@each(("scale", "base"), [(None, 10000.0), ([0.25, 3.0, 1.5], 50.0)])
def test_grid_cell_by_cell(order, cell, size, dim, dtype, scale, base):
    factors = (scale or [1.0] * 3)[: len(size)]
    steps = [torch.arange(s, dtype=torch.float64) * f for s, f in zip(size, factors, strict=True)]
    positions = torch.cartesian_prod(*steps).view(-1, len(size)).tolist()
    exact = torch.tensor([cell(p, dim, base) for p in positions], dtype=torch.float64)
    actual = posenc_ext.sinusoidal_grid(size, dim, order, base, scale and factors, dtype=dtype)
    assert actual.dtype == dtype
    assert actual.is_contiguous()
    assert same_values(actual, exact)


@ORDERS
def test_grid_has_rows_of_zeros_in_front(order, cell, size, dim):
    grid = posenc_ext.sinusoidal_grid(size, dim, order)
    longer = posenc_ext.sinusoidal_grid(size, dim, order, extra_tokens=2)
    assert same_bits(longer, torch.cat([torch.zeros(2, dim), grid]))


def test_grid_is_made_in_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    assert posenc_ext.sinusoidal_grid([2, 2], 4).dtype == torch.float64
    assert (
        posenc_ext.detr_sine(torch.ones(1, 2, 2, dtype=torch.bool), 2, normalize=True).dtype == torch.float64
    )


def test_grid_of_moco_v3_as_it_is_written():
    """Cells of a [w, h] mesh in its order, and sines of "w" first: ours with a reversed size."""
    h, w, pairs = 3, 5, 2
    cells = torch.cartesian_prod(torch.arange(w), torch.arange(h)).double()
    angles = cells.unsqueeze(-1) * 10000.0 ** (-torch.arange(pairs).double() / pairs)
    exact = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
    assert same_values(posenc_ext.sinusoidal_grid([w, h], 4 * pairs, "mocov3"), exact)


MASK = torch.tensor([[[1, 1, 0], [1, 1, 0]], [[1, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])


@each("dtype", DTYPES)
@each("mask_dtype", [torch.bool, torch.int64])
@each(("normalize", "scale"), [(False, 1.0), (True, 2 * math.pi), (True, 100.0)])
def test_detr_cell_by_cell(dtype, mask_dtype, normalize, scale):
    features, base = 6, 20.0
    exact = torch.empty(3, 2 * features, 2, 3, dtype=torch.float64)
    for b, y, x in torch.cartesian_prod(*(torch.arange(s) for s in MASK.shape)).tolist():
        row = []
        for line, i in ((MASK[b, :, x], y), (MASK[b, y], x)):
            position = line[: i + 1].sum().item()
            if normalize:
                position = position / (line.sum().item() + 1e-6) * scale
            row += [wave for pair in zip(*waves(position, features, base), strict=True) for wave in pair]
        exact[b, :, y, x] = torch.tensor(row, dtype=torch.float64)
    mask = MASK.to(mask_dtype)
    actual = posenc_ext.detr_sine(mask, features, base, normalize, scale, dtype)
    assert same_values(actual, exact)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert same_bits(
        posenc_ext.detr_sine(mask.mT.contiguous().mT, features, base, normalize, scale, dtype), actual
    )


def test_detr_of_an_empty_map():
    for shape in ((0, 2, 3), (2, 0, 3), (2, 3, 0)):
        mask = torch.ones(shape, dtype=torch.bool)
        assert posenc_ext.detr_sine(mask, 4, normalize=True).shape == (shape[0], 8, *shape[1:])


# Resampling


@each("dtype", DTYPES)
@each("prefix", [0, 2])
@each(
    ("mode", "antialias", "align_corners"),
    [("bicubic", True, False), ("bicubic", False, True), ("bilinear", True, False), ("nearest", True, False)],
)
def test_position_embedding_is_resampled_as_an_image(dtype, prefix, mode, antialias, align_corners):
    pos_embed = torch.randn(1, prefix + 12, 5).to(dtype)
    actual = posenc_ext.resample_position_embedding(
        pos_embed, [2, 7], prefix, [4, 3], mode, antialias, align_corners
    )
    assert actual.shape == (1, prefix + 14, 5)
    assert same_bits(actual[:, :prefix], pos_embed[:, :prefix])
    options = {} if mode == "nearest" else {"antialias": antialias, "align_corners": align_corners}
    image = pos_embed[:, prefix:].double().mT.reshape(1, 5, 4, 3)
    exact = F.interpolate(image, (2, 7), mode=mode, **options).flatten(2).mT
    assert same_values(actual[:, prefix:], exact)
    flat = posenc_ext.resample_position_embedding(
        pos_embed[0], [2, 7], prefix, [4, 3], mode, antialias, align_corners
    )
    assert same_bits(flat, actual[0])
    columns = pos_embed.mT.contiguous().mT
    assert same_bits(
        posenc_ext.resample_position_embedding(
            columns, [2, 7], prefix, [4, 3], mode, antialias, align_corners
        ),
        actual,
    )


@each("mode", ["bicubic", "bilinear"])
def test_resampling_is_that_of_interpolate(mode):
    sizes = ((1, 1), (1, 6), (2, 9), (5, 7), (8, 3), (16, 16))
    for old, new, antialias, align_corners in itertools.product(sizes, sizes, (False, True), (False, True)):
        grid = torch.randn(*old, 3, dtype=torch.float64)
        image = grid.permute(2, 0, 1).unsqueeze(0)
        options = {"mode": mode, "antialias": antialias, "align_corners": align_corners}
        expected = F.interpolate(image, new, **options).squeeze(0).permute(1, 2, 0)
        actual = resample_grid(grid, list(new), mode, antialias, align_corners)
        torch.testing.assert_close(actual, expected, rtol=0, atol=2**-46)  # the weights, from float64 sizes


def test_resampling_under_autocast():
    pos_embed = torch.randn(1, 10, 4)
    expected = posenc_ext.resample_position_embedding(pos_embed, [5, 2])
    with torch.autocast("cpu", torch.bfloat16):
        assert same_bits(posenc_ext.resample_position_embedding(pos_embed, [5, 2]), expected)


def test_the_same_size_is_the_same_tensor():
    pos_embed, table = torch.randn(1, 10, 4), torch.randn(21, 2)
    assert posenc_ext.resample_position_embedding(pos_embed, [3, 3]) is pos_embed
    assert posenc_ext.resample_position_embedding(pos_embed, [1, 9], 1, [1, 9]) is pos_embed
    assert posenc_ext.resample_window_table(table, [2, 4], [2, 4]) is table


@each("dtype", DTYPES)
@each("prefix", [0, 1])
def test_window_table_is_resampled_as_an_image_a_head(dtype, prefix):
    table = torch.randn(7 * 5 + 3 * prefix, 2).to(dtype)
    actual = posenc_ext.resample_window_table(table, [4, 3], [2, 6], prefix)
    image = table[:35].double().t().reshape(1, 2, 7, 5)
    exact = F.interpolate(image, (3, 11), mode="bicubic").view(2, 33).t()
    # Rounded once; the smallest number is half precision's own error next to zero.
    bound = torch.finfo(dtype).eps / 2 * exact.abs() + torch.finfo(dtype).smallest_normal + 2**-46
    assert ((actual[:33].double() - exact).abs() <= bound).all()
    assert same_bits(actual[33:], table[35:])
    assert same_bits(
        posenc_ext.resample_window_table(table.t().contiguous().t(), [4, 3], [2, 6], prefix), actual
    )
    posenc_ext.window_bias(actual, [2, 6], prefix_tokens=prefix)


@each(("old", "new"), [([3], [6]), ([4, 3], [4, 5]), ([2, 3, 4], [3, 5, 2]), ([8, 7, 7], [8, 7, 9])])
def test_window_table_is_resampled_along_each_axis(old, new):
    cells = [2 * size - 1 for size in old]
    table = torch.randn(math.prod(cells), 2, dtype=torch.float64)
    expected = table.view(*cells, 2)
    for axis, size in enumerate(new):
        lines = expected.movedim(axis, -1)
        resized = F.interpolate(lines.reshape(1, -1, 1, cells[axis]), (1, 2 * size - 1), mode="bicubic")
        expected = resized.view(*lines.shape[:-1], -1).movedim(-1, axis)
    actual = posenc_ext.resample_window_table(table, old, new)
    torch.testing.assert_close(actual, expected.flatten(0, -2), rtol=0, atol=2**-46)


def test_resampling_keeps_what_is_constant():
    grid = torch.full([1, 17, 3], 2.5)
    torch.testing.assert_close(
        posenc_ext.resample_position_embedding(grid, [7, 2]), torch.full([1, 15, 3], 2.5)
    )
    table = torch.full([9, 2], 2.5)
    torch.testing.assert_close(
        posenc_ext.resample_window_table(table, [2, 2], [3, 4]), torch.full([35, 2], 2.5)
    )


def test_gradients_of_resampling():
    pos_embed = torch.randn(1, 2 + 6, 3, dtype=torch.float64, requires_grad=True)
    table = torch.randn(9 + 3, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda p: posenc_ext.resample_position_embedding(p, [4, 2], 2, [2, 3]), pos_embed
    )
    torch.autograd.gradcheck(lambda t: posenc_ext.resample_window_table(t, [2, 2], [3, 4], 1), table)


# Scripts, graphs, examples, errors

CALLS = {
    "padding_positions": (torch.tensor([[5, 1, 6]]), 1, 3),
    "sinusoidal_grid": ([2, 3], 8, "timm", 100.0, [1.0, 0.5], 1, torch.bfloat16),
    "detr_sine": (MASK, 4, 10000.0, True),
    "resample_position_embedding": (torch.randn(1, 11, 4), [3, 4], 2),
    "resample_window_table": (torch.randn(9, 2), [2, 2], [3, 4]),
}


def test_every_composition_is_called_here():
    assert sorted(CALLS) == compositions.__all__
    assert set(CALLS) <= set(posenc_ext.__all__)


@scripted
@each("name", CALLS)
def test_scripted_is_the_same(name):
    function = getattr(posenc_ext, name)
    assert same_bits(torch.jit.script(function)(*CALLS[name]), function(*CALLS[name]))


@scripted
@each(("order", "size"), [("cogvideox", [2, 3, 4]), ("monai", [2, 3, 4]), ("mae", [3, 2])])
def test_scripted_grids(order, size):
    actual = torch.jit.script(posenc_ext.sinusoidal_grid)(size, 48, order)
    assert same_bits(actual, posenc_ext.sinusoidal_grid(size, 48, order))


@each("name", CALLS)
def test_compiles_to_one_graph(name):
    function = getattr(posenc_ext, name)
    torch._dynamo.reset()
    # A backend that runs the graph as it is: what is compared is the tracing.
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert same_bits(compiled(*CALLS[name]), function(*CALLS[name]))


def test_examples_in_docstrings():
    result = doctest.testmod(compositions)
    assert result.attempted >= 6
    assert result.failed == 0


ERRORS = [
    ("padding_positions", (torch.zeros(3, dtype=torch.int64), 0), "tokens must have 2 dimensions, got 1"),
    ("padding_positions", (torch.zeros(3, 2), 0), "tokens must be integers, got torch.float32"),
    (
        "padding_positions",
        (torch.zeros(3, 2, dtype=torch.bool), 0),
        "tokens must be integers, got torch.bool",
    ),
    (
        "padding_positions",
        (torch.zeros(3, 2, dtype=torch.int64), 0, -1),
        "past_length must be >= 0, got -1",
    ),
    (
        "sinusoidal_grid",
        ([2, 2], 4, "MAE"),
        "order must be one of mae, cogvideox, timm, timm_interleaved, mocov3, monai, positional_encodings, "
        "got MAE",
    ),
    (
        "padding_positions",
        (torch.zeros(3, 2, dtype=torch.int64), 0, torch.zeros(2, dtype=torch.int64)),
        "past_length must have one value or 3, got 2",
    ),
    (
        "padding_positions",
        (torch.zeros(3, 2, dtype=torch.int64), 0, torch.zeros(3)),
        "past_length must be an int or an integer tensor [], [1], [B] or [B, 1], got torch.float32 [3]",
    ),
    ("sinusoidal_grid", ([2], 4), "size has a wrong number of axes for order mae, got 1"),
    ("sinusoidal_grid", ([2, 2, 2], 4, "timm"), "size has a wrong number of axes for order timm, got 3"),
    (
        "sinusoidal_grid",
        ([2, 2], 16, "cogvideox"),
        "size has a wrong number of axes for order cogvideox, got 2",
    ),
    (
        "sinusoidal_grid",
        ([2] * 4, 24, "positional_encodings"),
        "size has a wrong number of axes for order positional_encodings, got 4",
    ),
    ("sinusoidal_grid", ([2, 0], 4), "sizes must be positive, got [2, 0]"),
    (
        "sinusoidal_grid",
        ([2, 2], 6),
        "dim must be a positive multiple of 4 for order mae with 2 axes, got 6",
    ),
    (
        "sinusoidal_grid",
        ([2, 2, 2], 24, "cogvideox"),
        "dim must be a positive multiple of 16 for order cogvideox with 3 axes, got 24",
    ),
    (
        "sinusoidal_grid",
        ([2, 2, 2], 8, "monai"),
        "dim must be a positive multiple of 6 for order monai with 3 axes, got 8",
    ),
    (
        "sinusoidal_grid",
        ([2], 0, "positional_encodings"),
        "dim must be a positive multiple of 1 for order positional_encodings with 1 axes, got 0",
    ),
    (
        "sinusoidal_grid",
        ([2, 2], 4, "mae", 10000.0, [1.0]),
        "scale must have one factor for each of 2 axes, got 1",
    ),
    ("sinusoidal_grid", ([2, 2], 4, "mae", 10000.0, None, -1), "extra_tokens must be >= 0, got -1"),
    ("detr_sine", (torch.ones(2, 2, dtype=torch.bool), 4), "mask must have 3 dimensions, got 2"),
    ("detr_sine", (torch.ones(1, 2, 2), 4), "mask must be bool or integer, got torch.float32"),
    (
        "detr_sine",
        (torch.ones(1, 2, 2, dtype=torch.bool), 5),
        "num_features must be even and positive, got 5",
    ),
    (
        "detr_sine",
        (torch.ones(1, 2, 2, dtype=torch.bool), 0),
        "num_features must be even and positive, got 0",
    ),
    (
        "resample_position_embedding",
        (torch.zeros(2, 5, 4), [3, 3]),
        "pos_embed must be [rows, D] or [1, rows, D], got [2, 5, 4]",
    ),
    (
        "resample_position_embedding",
        (torch.zeros(5), [3, 3]),
        "pos_embed must be [rows, D] or [1, rows, D], got [5]",
    ),
    (
        "resample_position_embedding",
        (torch.zeros(5, 4), [3, 3], -1),
        "prefix_tokens must be >= 0, got -1",
    ),
    ("resample_position_embedding", (torch.zeros(5, 4), [3]), "new_size must have 2 positive sizes, got [3]"),
    (
        "resample_position_embedding",
        (torch.zeros(5, 4), [3, 0]),
        "new_size must have 2 positive sizes, got [3, 0]",
    ),
    (
        "resample_position_embedding",
        (torch.zeros(5, 4), [3, 3], 1, [4]),
        "old_size must have 2 positive sizes, got [4]",
    ),
    (
        "resample_position_embedding",
        (torch.zeros(5, 4), [3, 3], 1, [2, 3]),
        "pos_embed must have 7 rows for old_size [2, 3], got 5",
    ),
    (
        "resample_position_embedding",
        (torch.zeros(6, 4), [3, 3]),
        "rows after the prefix must be a square without old_size, got 5",
    ),
    (
        "resample_position_embedding",
        (torch.zeros(1, 4), [3, 3]),
        "rows after the prefix must be a square without old_size, got 0",
    ),
    (
        "resample_position_embedding",
        (torch.zeros(5, 4), [3, 3], 1, None, "cubic"),
        "mode must be bicubic, bilinear or nearest, got cubic",
    ),
    (
        "resample_window_table",
        (torch.zeros(9, 2), [2, 0], [3, 3]),
        "old_window must have 1 to 3 positive sizes, got [2, 0]",
    ),
    (
        "resample_window_table",
        (torch.zeros(9, 2), [2, 1, 1, 1], [3, 3, 1, 1]),
        "old_window must have 1 to 3 positive sizes, got [2, 1, 1, 1]",
    ),
    (
        "resample_window_table",
        (torch.zeros(9, 2), [2, 2], [3]),
        "new_window must have 2 positive sizes, got [3]",
    ),
    (
        "resample_window_table",
        (torch.zeros(9, 2), [2, 2], [3, -3]),
        "new_window must have 2 positive sizes, got [3, -3]",
    ),
    (
        "resample_window_table",
        (torch.zeros(9, 2), [2, 2], [3, 3], 2),
        "prefix_tokens must be 0 or 1, got 2",
    ),
    (
        "resample_window_table",
        (torch.zeros(9, 2), [2, 2], [3, 3], 1),
        "table must be [12, heads] for window [2, 2], got [9, 2]",
    ),
    (
        "resample_window_table",
        (torch.zeros(9), [2, 2], [3, 3]),
        "table must be [9, heads] for window [2, 2], got [9]",
    ),
]


@each(("name", "arguments", "rule"), ERRORS)
def test_errors(name, arguments, rule):
    text = re.escape(f"posenc_ext.{name}: {rule}")
    with pytest.raises(ValueError, match=f"^{text}$"):
        getattr(posenc_ext, name)(*arguments)


@scripted
@each("name", CALLS)
def test_scripted_errors(name):
    arguments, rule = next((a, r) for n, a, r in ERRORS if n == name)
    with pytest.raises(torch.jit.Error, match=re.escape(f"posenc_ext.{name}: {rule}")):
        torch.jit.script(getattr(posenc_ext, name))(*arguments)


def test_errors_of_the_ops():
    with pytest.raises(RuntimeError, match="posenc_ext::sinusoidal_table: base must be positive"):
        posenc_ext.sinusoidal_grid([2, 2], 4, base=-1.0)
    with pytest.raises(RuntimeError, match="posenc_ext::sinusoidal: dtype must be"):
        posenc_ext.detr_sine(MASK, 4, dtype=torch.int64)


def test_window_index_is_that_of_the_reference():
    for window in ([3], [2, 3], [4, 1, 2], [1, 1]):
        for prefix_tokens in (0, 1):
            expected = posenc_ext.reference.window_index(window, prefix_tokens=prefix_tokens)
            actual = compositions.window_index(window, window, prefix_tokens)
            assert torch.equal(actual, expected), (window, prefix_tokens)
