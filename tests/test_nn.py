"""The modules against the plain PyTorch code they replace (examples/plain_positions.py) and the formulas."""

import doctest
import importlib
import itertools
import math
import pkgutil
import re
import sys
from pathlib import Path

import pytest
import torch
from exact import ulp
from support import each, same_bits
from test_nn_every import saved_and_loaded

import posenc_ext
from posenc_ext.reference import round_once

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
plain_positions = importlib.import_module("plain_positions")

HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float64, torch.float32, *HALVES)


def sinusoidal(source=posenc_ext.nn, dim=6, dropout=0.0, **options):
    return source.SinusoidalPositionalEncoding(dim, dropout, **options)


def expanded(source=posenc_ext.nn):
    return source.RelativePositionBias(3, 4, 4)


def windowed(source=posenc_ext.nn, window=(3, 4), prefix_tokens=0):
    return source.WindowRelativePositionBias(window, 3, prefix_tokens)


def with_class_token(source=posenc_ext.nn):
    return windowed(source, prefix_tokens=1)


def embedding(length=5, batch=2, dim=6, dtype=torch.float32):
    return torch.randn(length, batch, dim, dtype=torch.float64).to(dtype)


BIASES = each(
    ("build", "arguments"),
    [
        (expanded, (4, 4)),
        (expanded, (8, 12)),
        (windowed, ()),
        (with_class_token, ()),
        (lambda source=posenc_ext.nn: windowed(source, (5,)), ()),
        (lambda source=posenc_ext.nn: windowed(source, (2, 3, 4), 1), ()),
    ],
    ids=["expanded-same", "expanded", "window", "window-prefix", "window-1d", "window-3d-prefix"],
)


def pair(build):
    """The plain module and ours with its weights."""
    plain, ours = build(plain_positions), build()
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def exact_encoding(emb, positions):
    """emb * sqrt(dim) + sinusoids of the positions [L] in float64, interleaved."""
    dim = emb.shape[-1]
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = positions.to(torch.float64)[:, None] * frequency
    table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
    return emb.to(torch.float64) * math.sqrt(dim) + table[:, None]


# Values


@each("step", [None, 0, 7])
def test_sinusoidal_matches_the_classic_module(step):
    plain, ours = pair(lambda source=posenc_ext.nn: sinusoidal(source, dim=64))
    emb = embedding(100, 3, 64)
    actual, expected = ours(emb, step), plain(emb, step)
    # The eager table is off by 1e-7 per position; the eager sum is rounded three times.
    bound = 1e-7 * 100 + 6e-8 + 2**-23 * (8 * emb.abs() + expected.abs())
    assert actual.shape == expected.shape
    assert ((actual - expected).abs() <= bound).all()


@each("dtype", DTYPES)
@each("step", [None, 7])
def test_sinusoidal_is_rounded_once(dtype, step):
    """Half types are rounded to float32 before, which shows where the terms cancel: core/sums.h."""
    emb = embedding(300, 2, 64, dtype)
    actual = sinusoidal(dim=64).to(dtype)(emb, step)
    positions = torch.arange(300) if step is None else torch.full([300], step)
    exact = exact_encoding(emb, positions)
    if dtype is torch.float64:
        torch.testing.assert_close(actual, exact, rtol=0, atol=1e-13)  # 300 * 2^-52 of the angle here
    elif dtype is torch.float32:
        assert same_bits(actual, round_once(exact, dtype))
    else:
        unit = torch.from_numpy(ulp(exact.numpy(), dtype))
        terms = 8 * emb.double().abs() + 1  # the encoding is at most 1
        assert ((actual.double() - exact).abs() <= 0.501 * unit + 2.0**-24 * terms).all()


def test_step_is_one_position_for_every_row():
    module, emb = sinusoidal(), embedding(length=4)
    rows = [module(row.unsqueeze(0), 9) for row in emb]
    assert same_bits(module(emb, 9), torch.cat(rows))
    first_nine = torch.cat([torch.zeros(9, *emb.shape[1:]), emb[:1]])
    assert same_bits(rows[0][0], module(first_nine)[9])


def test_sinusoidal_has_no_length_limit():
    module = sinusoidal(max_len=3)
    emb = embedding(length=6000)
    assert same_bits(module(emb), sinusoidal()(emb))
    assert same_bits(
        module(emb[:1], 10**6), round_once(exact_encoding(emb[:1], torch.tensor([10**6])), emb.dtype)
    )


def test_sinusoidal_takes_any_strides():
    emb = embedding(length=2, batch=5).transpose(0, 1)
    for step in (None, 3):
        assert same_bits(sinusoidal()(emb, step), sinusoidal()(emb.contiguous(), step))


@BIASES
@each("dtype", DTYPES)
def test_bias_is_the_gather_bit_for_bit(build, arguments, dtype):
    plain, ours = (module.to(dtype) for module in pair(build))
    assert same_bits(ours(*arguments), plain(*arguments))


@each(("h", "w", "H", "W"), [(2, 3, 5, 4), (3, 2, 3, 7), (1, 4, 2, 4)])
def test_expanded_bias_by_its_formula(h, w, H, W):
    """Rectangular grids and sizes that are no multiples, one element at a time."""
    module = posenc_ext.nn.RelativePositionBias(2, h, w)
    table = module.relative_position_bias_table
    actual = module(H, W)
    assert actual.shape == (1, 2, H * W, h * w)
    for Y, X, y, x in itertools.product(range(H), range(W), range(h), range(w)):
        row = (Y * h // H - y + h - 1) * (2 * w - 1) + (X * w // W - x + w - 1)
        assert torch.equal(actual[0, :, Y * W + X, y * w + x], table[row])


def test_window_bias_written_out():
    module = posenc_ext.nn.WindowRelativePositionBias((2, 2), 1)
    with torch.no_grad():
        module.relative_position_bias_table.copy_(torch.arange(9.0)[:, None])
    expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert module().tolist() == [[expected]]


# Gradients


@BIASES
def test_bias_gradient_in_float64(build, arguments):
    plain, ours = (module.double() for module in pair(build))
    grad = torch.randn_like(ours(*arguments))
    for module in (plain, ours):
        module(*arguments).backward(grad)
    torch.testing.assert_close(
        ours.relative_position_bias_table.grad,
        plain.relative_position_bias_table.grad,
        rtol=1e-12,
        atol=1e-12,
    )


@BIASES
@each("dtype", [torch.float32, *HALVES])
def test_bias_gradient_is_accumulated_wide(build, arguments, dtype):
    """Against the float64 gradient of the same upstream: no more than the sum's rounding and the result's."""
    plain, ours = pair(build)
    ours = ours.to(dtype)
    grad = torch.rand_like(ours(*arguments))
    ours(*arguments).backward(grad)
    plain.double()(*arguments).backward(grad.double())
    exact = plain.relative_position_bias_table.grad
    terms = grad[0, 0].numel()
    relative = torch.finfo(dtype).eps / 2 + terms * 2**-24
    error = (ours.relative_position_bias_table.grad.double() - exact).abs()
    assert (error <= relative * exact).all()


@each("step", [None, 3])
def test_sinusoidal_gradient(step):
    emb = embedding(dtype=torch.float64).requires_grad_()
    out = sinusoidal()(emb, step)
    grad = torch.randn_like(out)
    out.backward(grad)
    torch.testing.assert_close(emb.grad, grad * math.sqrt(6), rtol=1e-15, atol=0)


def test_dropout_gradient_has_the_mask_of_the_result():
    emb = embedding(100).requires_grad_()
    out = sinusoidal(dropout=0.5)(emb)
    out.sum().backward()
    expected = torch.where(out == 0, 0.0, 2 * math.sqrt(6))
    torch.testing.assert_close(emb.grad, expected, rtol=2**-23, atol=0)


# Dropout


@each("p", [0.1, 0.5])
def test_dropout_in_training(p):
    module, emb = sinusoidal(dim=64, dropout=p), embedding(200, 4, 64)
    kept = module.eval()(emb)
    assert same_bits(kept, sinusoidal(dim=64)(emb))
    dropped = module.train()(emb)
    mask = dropped == 0
    n = emb.numel()
    assert abs(mask.sum().item() - p * n) < 5 * math.sqrt(p * (1 - p) * n)
    torch.testing.assert_close(dropped[~mask], kept[~mask] / (1 - p), rtol=2**-22, atol=0)


def test_dropout_is_drawn_from_the_generator():
    module, emb = sinusoidal(dropout=0.5), embedding(100)
    torch.manual_seed(5)
    first, second = module(emb), module(emb)
    torch.manual_seed(5)
    assert same_bits(module(emb), first)
    assert not torch.equal(first, second)


def test_dropout_is_set_where_the_classic_module_keeps_it():
    module, emb = sinusoidal(dropout=0.5), embedding(100)
    kept = sinusoidal()(emb)
    module.dropout.p = 0.0
    assert same_bits(module(emb), kept)
    module.dropout.p = 0.5
    assert not torch.equal(module(emb), kept)
    module.dropout.eval()
    assert same_bits(module(emb), kept)


# Checkpoints


@each("shape", [(5000, 1, 6), (17, 1, 6), (1, 5000, 6), (5000, 6)])
def test_pe_of_any_shape_is_dropped(shape):
    sinusoidal().load_state_dict({"pe": torch.zeros(shape)})


@each("build", [expanded, windowed, with_class_token])
def test_index_of_any_form_is_dropped(build):
    plain, ours = build(plain_positions), build()
    for index in (plain.relative_position_index, plain.relative_position_index.flatten()):
        ours.load_state_dict({**plain.state_dict(), "relative_position_index": index})
    assert torch.equal(ours.relative_position_bias_table, plain.relative_position_bias_table)
    ours.load_state_dict(ours.state_dict())


def test_checkpoint_of_a_whole_model():
    def model(source):
        return torch.nn.ModuleDict({"a": sinusoidal(source), "b": torch.nn.Sequential(windowed(source))})

    plain, ours = model(plain_positions), model(posenc_ext.nn)
    state = plain.state_dict()
    keys = list(state)
    assert ours.load_state_dict(state) == ([], [])
    assert list(state) == keys  # the caller's dictionary is left alone
    assert torch.equal(ours["b"][0](), plain["b"][0]())


@each(
    ("build", "state", "message"),
    [
        (sinusoidal, {"encoding": torch.zeros(1)}, "Unexpected key"),
        (expanded, {"relative_position_index": torch.zeros(1)}, "Missing key"),
        (windowed, {"relative_position_bias_table": torch.zeros(36, 3)}, "size mismatch"),
    ],
)
def test_other_keys_stay_strict(build, state, message):
    with pytest.raises(RuntimeError, match=message):
        build().load_state_dict(state)


@each("build", [expanded, windowed])
def test_table_starts_small(build):
    torch.manual_seed(0)
    module = build()
    module.relative_position_bias_table = torch.nn.Parameter(torch.empty(200, 200))
    module.reset_parameters()
    table = module.relative_position_bias_table
    assert table.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(table.mean().item()) < 5 * 0.02 / 200


# Copies, scripts, graphs


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_saved_script_drops_out_in_training_alone():
    emb = embedding(100)
    loaded = saved_and_loaded(sinusoidal(dropout=0.5))
    assert (loaded.train()(emb) == 0).any()
    assert same_bits(loaded.eval()(emb), sinusoidal()(emb))


@each("name", [m.name for m in pkgutil.iter_modules(posenc_ext.nn.__path__) if m.name[0] != "_"])
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"posenc_ext.nn.{name}"))
    assert result.attempted >= 2
    assert result.failed == 0


# Errors


@each(
    ("call", "message"),
    [
        (
            lambda nn: nn.SinusoidalPositionalEncoding(7, 0.1),
            "Cannot use sin/cos positional encoding with odd dim (got dim=7)",
        ),
        (
            lambda nn: nn.SinusoidalPositionalEncoding(8, 1.1),
            "SinusoidalPositionalEncoding: dropout must be in [0, 1], got 1.1",
        ),
        (
            lambda nn: nn.SinusoidalPositionalEncoding(8, -0.1),
            "SinusoidalPositionalEncoding: dropout must be in [0, 1], got -0.1",
        ),
        (
            lambda nn: nn.SinusoidalPositionalEncoding(8, 0.1)(torch.zeros(2, 1, 6)),
            "SinusoidalPositionalEncoding: emb must have 8 channels, got 6",
        ),
        (
            lambda nn: nn.RelativePositionBias(2, 0, 4),
            "RelativePositionBias: window sizes must be positive, got [0, 4]",
        ),
        (
            lambda nn: nn.RelativePositionBias(0, 4, 4),
            "RelativePositionBias: num_heads must be positive, got 0",
        ),
        (
            lambda nn: nn.WindowRelativePositionBias((), 2),
            "WindowRelativePositionBias: window must have 1 to 3 sizes, got 0",
        ),
        (
            lambda nn: nn.WindowRelativePositionBias((7, -1), 2),
            "WindowRelativePositionBias: window sizes must be positive, got [7, -1]",
        ),
        (
            lambda nn: nn.WindowRelativePositionBias((7, 7), 2, 2),
            "WindowRelativePositionBias: prefix_tokens must be 0 or 1, got 2",
        ),
    ],
)
def test_value_errors(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(posenc_ext.nn)


def test_errors_of_the_ops():
    with pytest.raises(
        RuntimeError, match=r"window_bias: query_size must be at least the window \[4, 4\], got \[3, 8\]"
    ):
        expanded()(3, 8)
    with pytest.raises(RuntimeError, match=r"add_sinusoidal: x must have 2 or 3 dimensions .*, got 1"):
        sinusoidal()(torch.zeros(6))


@each("build", [posenc_ext.nn.T5RelativePositionBias, posenc_ext.nn.T5BiasSoftmax])
def test_t5_diagonals_hold_the_bias(build):
    """For layers that share them, also in TorchScript: diagonals[h, k - q + Q - 1] is the bias of (q, k)."""
    module = build(3, bidirectional=False).to(torch.bfloat16)
    expected = posenc_ext.t5_bias(module.relative_attention_bias.weight, 4, 6, 5, bidirectional=False)
    index = torch.arange(6) - torch.arange(4)[:, None] + 3
    for source in (module, saved_and_loaded(module)):
        diagonals = source.diagonals(4, 6, 5)
        assert (diagonals.shape, diagonals.dtype) == ((3, 9), torch.float32)
        assert torch.equal(diagonals[:, index], expected.float())
