"""The reference and the public ops against numbers of the literature, written out by hand."""

import doctest
import inspect
import math

import torch
from op_db import OPS
from support import each

import posenc_ext
from posenc_ext import ops, reference

IMPLEMENTATIONS = each("module", [reference, posenc_ext], ids=["reference", "ops"])


@each("module", [reference, ops], ids=["reference", "ops"])
def test_doctests(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


@each("name", sorted({op.packet for op in OPS if op.wrapper}))
def test_signatures_agree(name):
    """ops, reference and schema have the same arguments with the same defaults, in the same order."""
    schema = getattr(torch.ops.posenc_ext, name).default._schema.arguments
    expected = []
    for argument in schema:
        default = argument.default_value if argument.has_default_value() else inspect.Parameter.empty
        # TorchScript scripts no function whose default is a list of tensors: None stands for [].
        expected.append((argument.name, None if default == [] else default))
    if "positions" in getattr(torch.ops.posenc_ext, name).overloads():  # one function for both overloads
        expected.append(("positions", None))
    if "dropout" in getattr(torch.ops.posenc_ext, name).overloads():
        expected += [("dropout_p", 0.0), ("training", False)]
    for module in (ops, reference):
        parameters = inspect.signature(getattr(module, name)).parameters.values()
        found = [(parameter.name, parameter.default) for parameter in parameters]
        if module is ops and found[-1] == ("inplace", False):  # calls the op with a trailing underscore
            assert f"{name}_" in {op.packet for op in OPS}
            found.pop()
        assert found == expected


@IMPLEMENTATIONS
def test_first_rows_of_the_transformer_table(module):
    """sin and cos of pos / 10000^(2i / 4), side by side."""
    expected = [
        [0.0, 1.0, 0.0, 1.0],
        [0.8414709848078965, 0.5403023058681398, 0.009999833334166664, 0.9999500004166653],
        [0.9092974268256817, -0.4161468365471424, 0.01999866669333308, 0.9998000066665778],
        [0.1411200080598672, -0.9899924966004454, 0.02999550020249566, 0.9995500337489875],
    ]
    table = module.sinusoidal_table(4, 4, dtype=torch.float64)
    torch.testing.assert_close(table, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)


@IMPLEMENTATIONS
def test_channel_orders(module):
    """The four channels of position 1 with frequencies 1 and 0.01, in each layout."""
    s0, c0, s1, c1 = math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)
    orders = {
        "interleaved": [s0, c0, s1, c1],
        "concat": [s0, s1, c0, c1],
        "concat_cos_first": [c0, c1, s0, s1],
    }
    for layout, expected in orders.items():
        row = module.sinusoidal(torch.tensor(1.0, dtype=torch.float64), 4, layout=layout)
        torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)


@IMPLEMENTATIONS
def test_odd_dims(module):
    """Five channels: base 16 gives the frequencies 1, 1/4 and, for the extra sine, 1/16."""
    s, c = [math.sin(w) for w in (1, 1 / 4, 1 / 16)], [math.cos(w) for w in (1, 1 / 4)]
    rows = {
        ("interleaved", "zero"): [s[0], c[0], s[1], c[1], 0.0],
        ("interleaved", "sin"): [s[0], c[0], s[1], c[1], s[2]],
        ("concat", "zero"): [s[0], s[1], c[0], c[1], 0.0],
        ("concat", "sin"): [s[0], s[1], s[2], c[0], c[1]],
        ("concat_cos_first", "zero"): [c[0], c[1], s[0], s[1], 0.0],
        ("concat_cos_first", "sin"): [c[0], c[1], s[0], s[1], s[2]],
    }
    for (layout, odd), expected in rows.items():
        row = module.sinusoidal_table(1, 5, start=1, base=16.0, layout=layout, odd=odd, dtype=torch.float64)
        torch.testing.assert_close(row[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)


@IMPLEMENTATIONS
def test_freq_shift_ends_at_the_base(module):
    """With freq_shift 1 the last of n frequencies is exactly 1 / base."""
    row = module.sinusoidal(
        torch.tensor(5.0, dtype=torch.float64), 6, base=100.0, freq_shift=1.0, layout="concat"
    )
    expected = [math.sin(5), math.sin(0.5), math.sin(0.05), math.cos(5), math.cos(0.5), math.cos(0.05)]
    torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)


def rows_read(module, window, **sizes):
    """The table row that each pair reads, from a table that holds its own row numbers."""
    rows = math.prod(2 * s - 1 for s in window) + 3 * sizes.get("prefix_tokens", 0)
    table = torch.arange(rows, dtype=torch.float64)[:, None]
    return module.window_bias(table, window, **sizes)[0].to(torch.int64).tolist()


@IMPLEMENTATIONS
def test_swin_window_of_2_by_2(module):
    assert rows_read(module, [2, 2]) == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


@IMPLEMENTATIONS
def test_beit_window_of_2_by_2_with_cls(module):
    assert rows_read(module, [2, 2], prefix_tokens=1) == [
        [11, 9, 9, 9, 9],
        [10, 4, 3, 1, 0],
        [10, 5, 4, 2, 1],
        [10, 7, 6, 4, 3],
        [10, 8, 7, 5, 4],
    ]


@IMPLEMENTATIONS
def test_windows_of_one_and_three_axes(module):
    assert rows_read(module, [3]) == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    assert rows_read(module, [2, 1, 2]) == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


@IMPLEMENTATIONS
def test_rectangular_window_strides_by_its_width(module):
    """Height 2, width 3: five columns of distances a row."""
    assert rows_read(module, [2, 3])[0] == [7, 6, 5, 2, 1, 0]
    assert rows_read(module, [2, 3])[5] == [14, 13, 12, 9, 8, 7]


@IMPLEMENTATIONS
def test_expanded_queries(module):
    """Four queries on a window of two share its rows in pairs; five split three to two."""
    first, second = [1, 0], [2, 1]
    assert rows_read(module, [2], query_size=[4]) == [first, first, second, second]
    assert rows_read(module, [2], query_size=[5]) == [first, first, first, second, second]
    grid = rows_read(module, [2, 2], query_size=[4, 4])
    cells = rows_read(module, [2, 2])
    assert grid == [cells[2 * (y // 2) + x // 2] for y in range(4) for x in range(4)]


@each(
    ("counter", "key", "expected"),
    [
        ([0, 0, 0, 0], 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, 0xFFFFFFFFFFFFFFFF, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_known_answers(counter, key, expected):
    words = reference.philox([torch.tensor(word) for word in counter], key)
    assert " ".join(f"{int(word):08x}" for word in words) == expected


@each("layout", ["interleaved", "concat", "concat_cos_first"])
def test_orders_are_derivatives_of_the_reference(layout):
    def encode(order):
        return lambda p: reference.encode(p, 7, 16.0, 0.5, -1.5, layout, "sin", order)

    p = torch.tensor([0.0, -1.25, 3.5, 1e3], dtype=torch.float64)
    for order in range(4):
        _, derivative = torch.func.jvp(encode(order), (p,), (torch.ones_like(p),))
        torch.testing.assert_close(encode(order + 1)(p), derivative, rtol=1e-13, atol=1e-13)
