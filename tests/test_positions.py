"""What the overloads with positions promise beyond their values: bits, memory, gradients, no waiting."""

import pytest
import torch
from op_types import DTYPES, values
from support import Calls, each, same_bits

import posenc_ext


@each("dtype", DTYPES)
def test_consecutive_positions_give_the_bits_of_the_plain_call(dtype):
    """Dropout included: whether an element is kept depends on its place in the result alone."""
    for dim in (8, 33, 64):
        x, table = values((3, 50, dim), "cpu", dtype), values((50, dim), "cpu", dtype, seed=1)
        positions = torch.arange(50)
        for p in (0.0, 0.3):
            options = {"x_scale": 1.7, "dropout_p": p, "training": True}
            results = []
            for given in ({}, {"positions": positions}, {"positions": positions.expand(3, 50).int()}):
                torch.manual_seed(0)
                y = posenc_ext.add_sinusoidal(x, odd="sin", **options, **given)
                results.append((y, posenc_ext.add_position_embedding(x, table, **options, **given)))
            for y, z in results[1:]:
                assert same_bits(y, results[0][0])
                assert same_bits(z, results[0][1])


def test_packed_sequences_give_the_bits_of_each_alone():
    x, table = values((9, 16), "cpu", torch.float32), values((5, 16), "cpu", torch.float32, seed=1)
    positions = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3])
    y = posenc_ext.add_sinusoidal(x, positions=positions)
    z = posenc_ext.add_position_embedding(x, table, positions=positions)
    for piece in (slice(0, 5), slice(5, 9)):
        alone = x[piece]
        assert same_bits(y[piece], posenc_ext.add_sinusoidal(alone))
        expected = posenc_ext.add_position_embedding(alone[None], table[: len(alone)])[0]
        assert same_bits(z[piece], expected)


def test_rows_are_read_where_they_lie():
    """No op runs but ours and views: x with channels left out, a table's transpose, every second position."""
    x = torch.randn(2, 3, 20)[..., 2:10]
    table, positions = torch.randn(8, 30).T, torch.randint(30, (2, 6))[:, ::2]
    turned, turned_positions = x.transpose(0, 1), positions.T
    with Calls() as calls:
        y = posenc_ext.add_position_embedding(x, table, positions=positions)
        posenc_ext.add_position_embedding(turned, table, positions=turned_positions)
    assert calls.names == ["posenc_ext._add_positions"] * 2
    assert same_bits(y, x + table[positions])
    row, at = x[:, 0], torch.arange(6).view(2, 3)
    with Calls() as calls:
        posenc_ext.add_sinusoidal(x, positions=at)
        posenc_ext.add_sinusoidal(row, positions=at[0, 0])
    assert calls.names.count("posenc_ext._add_sinusoidal") == 2
    assert not {"aten.clone", "aten.copy_", "aten._to_copy", "aten._reshape_copy"} & set(calls.names)


def test_a_tensor_start_is_not_read_by_the_host():
    x = torch.randn(3, 4, 8)
    expected = posenc_ext.add_sinusoidal(x, start=5)
    for shape in ((), (1,), (3,), (3, 1)):
        start = torch.full(shape, 5)
        sequence_first = x.transpose(0, 1)
        with Calls() as calls:
            y = posenc_ext.add_sinusoidal(x, start=start)
            turned = posenc_ext.add_sinusoidal(sequence_first, start=start, batch_first=False)
        assert calls.names.count("posenc_ext._add_sinusoidal") == 2
        assert set(calls.names) <= {"posenc_ext._add_sinusoidal", "aten.expand", "aten.squeeze"}, calls.names
        assert same_bits(y, expected)
        assert same_bits(turned.transpose(0, 1), expected)


@each("dtype", DTYPES)
def test_rows_are_summed_in_the_order_of_the_tokens(dtype):
    """One rounding of a float32 (float64) sum, one term after another: the same bits however many threads."""
    grad = values((4, 70, 600), "cpu", dtype)
    positions = torch.randint(6, (4, 70), generator=torch.Generator().manual_seed(0))
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    expected = torch.zeros(7, 600, dtype=wide)
    for row, term in zip(positions.flatten().tolist(), grad.flatten(0, 1).to(wide)):
        expected[row] += term
    threads = torch.get_num_threads()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        try:
            actual = torch.ops.posenc_ext._sum_positions(grad, positions, 7)
        finally:
            torch.set_num_threads(threads)
        assert same_bits(actual, expected.to(dtype))


def test_backward_computes_what_is_asked_for():
    x, table = torch.randn(2, 3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    y = posenc_ext.add_position_embedding(x, table, positions=torch.tensor([4, 0, 0]))
    upstream = torch.randn_like(y)
    with Calls() as calls:
        (grad,) = torch.autograd.grad(y, x, upstream, retain_graph=True)
    assert calls.names.count("posenc_ext._sum_positions") == 0
    assert grad.data_ptr() == upstream.data_ptr()
    with Calls() as calls:
        torch.autograd.grad(y, table, upstream)
    assert [name for name in calls.names if "posenc" in name] == ["posenc_ext._sum_positions"]


@each("size", [6, 40_000], ids=["drawn again", "mask kept"])
def test_all_is_dropped_where_dropout_is_one(size):
    """Zeros and zero gradients, of whatever x is: infinities and NaN do not show."""
    for bad in (float("inf"), float("nan"), 1.0):
        x = torch.full((size // 2, 2), bad, requires_grad=True)
        table = torch.full((3, 2), bad, requires_grad=True)
        options = {"dropout_p": 1.0, "training": True, "x_scale": 3.0}
        at = torch.zeros(1, dtype=torch.int64)
        for y, leaves in (
            (posenc_ext.add_sinusoidal(x, **options), [x]),
            (posenc_ext.add_sinusoidal(x, positions=at, **options), [x]),
            (posenc_ext.add_position_embedding(x, table, positions=at, **options), [x, table]),
            (posenc_ext.add_position_embedding(x[None], x.detach(), **options), [x]),
        ):
            assert not y.any()
            assert all(not grad.any() for grad in torch.autograd.grad(y, leaves, torch.ones_like(y)))
        assert same_bits(
            posenc_ext.add_sinusoidal(x.nan_to_num(), dropout_p=1.0),
            posenc_ext.add_sinusoidal(x.nan_to_num()),
        )


def test_positions_take_neither_a_start_nor_prefix_tokens():
    x, at = torch.ones(2, 4), torch.zeros(2, dtype=torch.int64)
    for start in (1, at):
        with pytest.raises(RuntimeError, match="add_sinusoidal: start must be 0 with positions, got both"):
            posenc_ext.add_sinusoidal(x, start=start, positions=at)
    with pytest.raises(RuntimeError, match="prefix_tokens must be empty with positions, got 2"):
        posenc_ext.add_position_embedding(x, x, [x, x], positions=at)
    assert same_bits(posenc_ext.add_position_embedding(x, x, [], positions=at), x + x)


def test_the_largest_positions_are_exact():
    """2**53 - 1 and its neighbour differ; both are those of their own doubles."""
    last = 2**53 - 1
    for dtype in (torch.int64, torch.uint64):
        at = torch.tensor([last - 1, last], dtype=dtype)
        y = posenc_ext.sinusoidal(at, 4, dtype=torch.float64)
        assert same_bits(y, posenc_ext.sinusoidal(at.double(), 4))
        assert same_bits(y, posenc_ext.add_sinusoidal(torch.zeros(2, 4).double(), positions=at))
    assert same_bits(y, posenc_ext.sinusoidal_table(2, 4, start=last - 1, dtype=torch.float64))
    assert not same_bits(y[0], y[1])


def test_scripted_calls_pick_the_overload():
    @torch.jit.script
    def both(x: torch.Tensor, table: torch.Tensor, at: torch.Tensor):
        return posenc_ext.add_sinusoidal(x, positions=at), posenc_ext.add_position_embedding(
            x, table, positions=at
        )

    x, table, at = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([4, 0, 2])
    y, z = both(x, table, at)
    assert same_bits(y, posenc_ext.add_sinusoidal(x, positions=at))
    assert same_bits(z, x + table[at])
