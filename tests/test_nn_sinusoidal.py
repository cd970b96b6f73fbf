"""What tests/test_nn.py leaves of the modules that make sinusoids; tests/parity has the libraries."""

import copy
import math
import pickle
import re

import pytest
import torch
from support import each, same_bits
from test_nn import plain_positions

import posenc_ext
from posenc_ext import reference
from posenc_ext.nn import SinusoidalPositionalEmbedding, SinusoidalPositionalEncoding, TimestepEmbedding
from posenc_ext.reference import round_once

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TOKENS = torch.tensor([[5, 6, 7, 8], [1, 1, 5, 6], [5, 1, 6, 1]])
STARTS = torch.tensor([7, 0, 10**6])


# SinusoidalPositionalEncoding


def encoding(dim=6, **options):
    return SinusoidalPositionalEncoding(dim, 0.0, **options)


@each("dtype", DTYPES)
@each("arguments", [(), (None, 5), (4,), (None, torch.tensor([4, 0, 9]))])
def test_batch_first_is_the_transpose(dtype, arguments):
    emb = torch.randn(5, 3, 6).to(dtype)
    actual = encoding(batch_first=True)(emb.transpose(0, 1).contiguous(), *arguments)
    assert actual.is_contiguous()
    assert same_bits(actual.transpose(0, 1), encoding()(emb, *arguments))
    assert same_bits(encoding(batch_first=True)(emb.transpose(0, 1), *arguments), actual)


def test_start_is_where_a_longer_sequence_was_cut():
    emb = torch.randn(12, 3, 6)
    assert same_bits(encoding()(emb[5:], start=5), encoding()(emb)[5:])
    assert same_bits(encoding()(emb[5:6], start=5), encoding()(emb[5:6], 5))


@each("dtype", [torch.int64, torch.int32])
def test_start_of_each_sample(dtype):
    emb = torch.randn(5, 3, 6)
    actual = encoding()(emb, start=STARTS.to(dtype))
    for b, start in enumerate(STARTS.tolist()):
        assert same_bits(actual[:, b : b + 1], encoding()(emb[:, b : b + 1], start=start))
    assert same_bits(encoding()(emb, start=STARTS.to(dtype).unsqueeze(1)), actual)
    for start in (torch.tensor(4, dtype=dtype), torch.tensor([4], dtype=dtype)):
        assert same_bits(encoding()(emb, start=start), encoding()(emb, start=4))


@each("batch_first", [False, True])
def test_position_ids(batch_first):
    ids = torch.tensor([[5, 0, 1, 2, 3], [9, 9, 0, 10**6, 1], [-2, -1, 0, 1, 2]])
    emb = torch.randn(3, 5, 6, requires_grad=True)
    module = encoding(batch_first=batch_first)
    exact = math.sqrt(6) * emb.double() + reference.sinusoidal(ids, 6, dtype=torch.float64)
    for dtype in (torch.int64, torch.int32):
        actual = module(emb if batch_first else emb.transpose(0, 1), position_ids=ids.to(dtype))
        actual = actual if batch_first else actual.transpose(0, 1)
        assert same_bits(actual, round_once(exact, torch.float32))
    shared = module(emb if batch_first else emb.transpose(0, 1), position_ids=ids[:1])
    shared = shared if batch_first else shared.transpose(0, 1)
    assert same_bits(shared[0], actual[0])
    assert same_bits(module(emb.flatten(0, 1), position_ids=ids.flatten()), actual.flatten(0, 1))
    upstream = torch.randn_like(actual)
    (grad,) = torch.autograd.grad(actual, emb, upstream)
    torch.testing.assert_close(grad, upstream * math.sqrt(6), rtol=2**-23, atol=0)


@each("batch_first", [False, True])
@each("arguments", [(), (4,), (None, 3), (None, torch.tensor([3]))])
def test_one_sequence_without_a_batch(batch_first, arguments):
    emb = torch.randn(5, 6)
    expected = encoding(batch_first=True)(emb.unsqueeze(0), *arguments).squeeze(0)
    assert same_bits(encoding(batch_first=batch_first)(emb, *arguments), expected)


def test_far_starts_are_exact():
    emb = torch.zeros(2, 3, 6)
    positions = torch.tensor([[7, 0, 10**6], [8, 1, 10**6 + 1]])
    exact = reference.sinusoidal(positions, 6, dtype=torch.float64)
    assert same_bits(encoding()(emb, start=STARTS), round_once(exact, torch.float32))


def test_argument_order_of_opennmt():
    module = SinusoidalPositionalEncoding.opennmt(0.25, 8, 77)
    assert (module.dim, module.dropout.p, module.max_len) == (8, 0.25, 77)


@each("batch_first", [False, True])
def test_pe_on_request(batch_first):
    module = encoding(max_len=50, batch_first=batch_first, emit_pe=True)
    pe = module.state_dict(prefix="a.")["a.pe"]
    assert pe.data_ptr() == module.pe.data_ptr()
    assert pe.shape == ((1, 50, 6) if batch_first else (50, 1, 6))
    assert same_bits(pe.flatten(0, 1), posenc_ext.sinusoidal_table(50, 6))
    copied = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    assert same_bits(copied.state_dict()["pe"], pe)
    emb = torch.randn(3, 3, 6)
    assert same_bits(torch.func.functional_call(module, module.state_dict(), (emb,)), module(emb))
    assert same_bits(module.half().pe, posenc_ext.sinusoidal_table(50, 6).half().view(pe.shape))


def test_pe_is_what_is_computed_whatever_is_loaded():
    for state in ({}, {"pe": torch.ones(7, 1, 6)}, {"pe": torch.ones(50, 1, 6, dtype=torch.bfloat16)}):
        module = encoding(max_len=50, emit_pe=True)
        expected = module.pe.clone()
        with torch.device("meta"):
            empty = encoding(max_len=50, emit_pe=True)
            on_meta = encoding(max_len=50, emit_pe=True)
        on_meta.reset_parameters()
        assert on_meta.pe.is_meta
        assert empty.load_state_dict(state, assign=True) == ([], [])
        assert empty.pe.device.type == "cpu"
        assert torch.equal(empty.pe.float(), expected.to(empty.pe.dtype).float())
        module.pe.fill_(torch.nan)  # what to_empty() may leave
        assert module.load_state_dict(state) == ([], [])
        assert same_bits(module.pe, expected)
        module.pe.fill_(torch.nan)
        module.reset_parameters()
        assert same_bits(module.pe, expected)


def test_the_classic_module_loads_pe():
    plain = plain_positions.SinusoidalPositionalEncoding(6, 0.0, max_len=50)
    assert plain.load_state_dict(encoding(max_len=50, emit_pe=True).state_dict()) == ([], [])
    emb = torch.randn(50, 2, 6)
    # The plain sum is rounded at the product and at the sum, the table once: ours is rounded once in all.
    torch.testing.assert_close(plain(emb), encoding()(emb), rtol=2**-23, atol=2**-22)


# SinusoidalPositionalEmbedding


@each("dtype", DTYPES)
@each(("dim", "padding_idx", "past"), [(8, 1, 0), (7, 0, 3), (4, 5, 1000)])
def test_embedding_of_tokens(dtype, dim, padding_idx, past):
    tokens = torch.randint(0, 7, (4, 6))
    actual = SinusoidalPositionalEmbedding(3, dim, padding_idx).to(dtype)(tokens, None, past)
    positions = posenc_ext.padding_positions(tokens, padding_idx, past)
    exact = reference.sinusoidal(
        positions, dim, freq_shift=1, layout="concat", odd="zero", dtype=torch.float64
    )
    exact[tokens == padding_idx] = 0
    if dtype == torch.float64:
        torch.testing.assert_close(actual, exact, rtol=0, atol=1e-12)  # 1000 * 2^-50 of the angle
    else:
        assert same_bits(actual, round_once(exact, dtype))


def test_embedding_without_tokens_is_that_of_tokens_without_padding():
    module = SinusoidalPositionalEmbedding(3, 8, 1)
    tokens = torch.full([2, 5], 9)
    for past in (0, 7):
        actual = module(inputs_embeds=torch.randn(2, 5, 3), past_key_values_length=past)
        assert same_bits(actual, module(tokens, past_key_values_length=past))


def test_embedding_with_a_cache_of_each_sample():
    """Rows padded on the left are decoded as a whole and token by token."""
    module = SinusoidalPositionalEmbedding(3, 8, 1)
    tokens = torch.tensor([[1, 1, 5, 6], [7, 8, 9, 10], [1, 3, 4, 5]])
    embeds, mask, whole = torch.zeros(3, 4, 2), tokens.ne(1), module(tokens)
    assert same_bits(module(inputs_embeds=embeds, attention_mask=mask), whole)
    assert same_bits(module(tokens.clamp(min=2), attention_mask=mask.int()), whole)
    for cut in (2, 3):
        past = mask[:, :cut].sum(1)
        for given in (past, past.unsqueeze(1), past.int()):
            assert same_bits(module(tokens[:, cut:], past_key_values_length=given), whole[:, cut:])
        given = {"inputs_embeds": embeds[:, cut:], "past_key_values_length": past}
        assert same_bits(module(**given, attention_mask=mask[:, cut:]), whole[:, cut:])
        assert same_bits(module(**given), whole[:, cut:])
        given["past_key_values_length"] = cut  # as generate() counts, padding included; the whole mask tells
        assert same_bits(module(**given, attention_mask=mask), whole[:, cut:])
    for past in (torch.tensor(7), torch.tensor([7])):
        assert same_bits(module(tokens, None, past), module(tokens, None, 7))
        assert same_bits(module(None, embeds, past), module(None, embeds, 7))


def test_embedding_of_position_ids():
    module = SinusoidalPositionalEmbedding(3, 8, 1)
    ids = posenc_ext.padding_positions(TOKENS, 1)
    assert same_bits(module(position_ids=ids), module(TOKENS))
    assert same_bits(module(torch.zeros_like(TOKENS), position_ids=ids), module(TOKENS))
    shared = module(inputs_embeds=torch.zeros(3, 4, 2), position_ids=ids[:1])
    assert same_bits(shared, module(TOKENS[:1]).expand(3, -1, -1))


def test_decoding_step_by_step_is_the_whole():
    module = SinusoidalPositionalEmbedding(3, 8, 1)
    tokens = torch.tensor([[4, 5, 6, 7, 8]])
    steps = [module(tokens[:, i : i + 1], past_key_values_length=i) for i in range(5)]
    assert same_bits(torch.cat(steps, 1), module(tokens))


def test_embedding_has_the_dtype_of_its_model():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), SinusoidalPositionalEmbedding(3, 8, 1))
    assert model[1](TOKENS).dtype == torch.float32
    for convert, dtype in (
        (lambda m: m.half(), torch.float16),
        (lambda m: m.to(torch.bfloat16), torch.bfloat16),
        (copy.deepcopy, torch.bfloat16),
        (lambda m: m.to("cpu"), torch.bfloat16),
        (lambda m: m.double(), torch.float64),
    ):
        model = convert(model)
        assert model[1](TOKENS).dtype == dtype
        assert model[1](inputs_embeds=torch.zeros(1, 2, 3)).dtype == dtype
    for buffer in model.buffers():  # what FSDP does to buffers, with a buffer_dtype
        buffer.data = buffer.to(torch.bfloat16)
    assert model[1](TOKENS).dtype == torch.bfloat16
    torch.set_default_dtype(torch.float64)
    assert SinusoidalPositionalEmbedding(3, 8, 1)(TOKENS).dtype == torch.float64


@each("keys", [["weights"], ["_float_tensor"], ["weights", "_float_tensor"]])
def test_tables_in_checkpoints_are_dropped(keys):
    model = torch.nn.ModuleDict({"embed_positions": SinusoidalPositionalEmbedding(3, 8, 1)})
    state = {f"embed_positions.{key}": torch.zeros(5, 8) for key in keys}
    assert model.load_state_dict(state) == ([], [])
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict({"embed_positions.weight": torch.zeros(5, 8)})


def test_argument_order_of_fairseq():
    module = SinusoidalPositionalEmbedding.fairseq(8, 1, init_size=77)
    assert (module.embedding_dim, module.padding_idx, module.num_positions) == (8, 1, 77)


# TimestepEmbedding


@each("dim", [6, 7])
@each("flip", [False, True])
@each(("shift", "scale", "period"), [(0, 1, 10000), (1, 0.5, 200)])
@each("dtype", DTYPES)
def test_timesteps(dim, flip, shift, scale, period, dtype):
    timesteps = torch.tensor([[0.0, 0.1, 1.0], [17.5, 998.0, -3.0]], dtype=torch.float64)
    actual = TimestepEmbedding(dim, flip, shift, scale, period, dtype)(timesteps)
    pairs = dim // 2
    frequency = float(period) ** (-torch.arange(pairs).double() / (pairs - shift))
    angle = scale * timesteps.unsqueeze(-1) * frequency
    parts = [angle.cos(), angle.sin()] if flip else [angle.sin(), angle.cos()]
    exact = torch.cat([*parts, torch.zeros(2, 3, dim % 2)], -1)
    assert actual.shape == (2, 3, dim)
    if dtype == torch.float64:
        torch.testing.assert_close(actual, exact, rtol=0, atol=1e-12)
    else:
        assert same_bits(actual, round_once(exact, dtype))


@each("dtype", [torch.int64, torch.float16, torch.bfloat16, torch.float64])
def test_timesteps_of_any_dtype_make_float32(dtype):
    timesteps = torch.tensor([0, 3, 200]).to(dtype)
    expected = TimestepEmbedding(6, True, 0)(timesteps.float())
    assert expected.dtype == torch.float32
    assert same_bits(TimestepEmbedding(6, True, 0).bfloat16()(timesteps), expected)


def test_gradient_of_timesteps():
    timesteps = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)
    module = TimestepEmbedding(7, True, 0, 0.5, dtype=torch.float64)
    torch.autograd.gradcheck(module, timesteps)
    torch.autograd.gradgradcheck(module, timesteps)


# Errors


@each(
    ("call", "message"),
    [
        (
            lambda: SinusoidalPositionalEncoding.opennmt(0.1, 7),
            "Cannot use sin/cos positional encoding with odd dim (got dim=7)",
        ),
        (
            lambda: encoding()(torch.zeros(2, 1, 6), 3, 4),
            "SinusoidalPositionalEncoding: start must be 0 with step or position_ids, got 4",
        ),
        (
            lambda: encoding()(torch.zeros(2, 1, 6), 3, torch.tensor([4])),
            "SinusoidalPositionalEncoding: start must be 0 with step or position_ids, got a tensor",
        ),
        (
            lambda: encoding()(torch.zeros(2, 1, 6), 3, position_ids=torch.tensor([[1, 2]])),
            "SinusoidalPositionalEncoding: step must be None with position_ids, got 3",
        ),
        (
            lambda: SinusoidalPositionalEncoding(6, 1.5),
            "SinusoidalPositionalEncoding: dropout must be in [0, 1], got 1.5",
        ),
        (
            lambda: SinusoidalPositionalEmbedding(9, 3, 1),
            "SinusoidalPositionalEmbedding: embedding_dim must be at least 4, got 3",
        ),
        (
            lambda: SinusoidalPositionalEmbedding(9, 4, -1),
            "SinusoidalPositionalEmbedding: padding_idx must be >= 0, got -1",
        ),
        (
            lambda: SinusoidalPositionalEmbedding(9, 4, 1)(),
            "SinusoidalPositionalEmbedding: one of input_ids and inputs_embeds must be given, got neither",
        ),
        (
            lambda: SinusoidalPositionalEmbedding(9, 4, 1)(TOKENS, torch.zeros(2, 3, 4)),
            "SinusoidalPositionalEmbedding: one of input_ids and inputs_embeds must be given, got both",
        ),
        (
            lambda: SinusoidalPositionalEmbedding(9, 4, 1)(TOKENS, past_key_values_length=-1),
            "posenc_ext.padding_positions: past_length must be >= 0, got -1",
        ),
        (
            lambda: SinusoidalPositionalEmbedding(9, 4, 1)(None, torch.zeros(2, 3, 4), -1),
            "SinusoidalPositionalEmbedding: past_key_values_length must be >= 0, got -1",
        ),
        (
            lambda: SinusoidalPositionalEmbedding(9, 4, 1)(None, torch.zeros(2, 3, 4), torch.zeros(3).long()),
            "SinusoidalPositionalEmbedding: past_key_values_length must have one value or 2, got 3",
        ),
        (
            lambda: SinusoidalPositionalEmbedding(9, 4, 1)(TOKENS, attention_mask=torch.ones(3, 2)),
            "SinusoidalPositionalEmbedding: attention_mask must be [B, M] with M >= 4, got [3, 2]",
        ),
        (
            lambda: TimestepEmbedding(2, True, 1),
            "TimestepEmbedding: num_channels // 2 - downscale_freq_shift must be positive, got 0",
        ),
        (
            lambda: TimestepEmbedding(8, True, math.nan),
            "TimestepEmbedding: num_channels // 2 - downscale_freq_shift must be positive, got nan",
        ),
        (
            lambda: TimestepEmbedding(8, True, 0, max_period=0),
            "TimestepEmbedding: max_period must be positive, got 0",
        ),
    ],
)
def test_value_errors(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@each(
    ("call", "message"),
    [
        (
            lambda: encoding()(torch.zeros(2, 1, 6), start=torch.tensor([1, 2])),
            r"posenc_ext::add_sinusoidal: .*\[1\]",
        ),
        (
            lambda: encoding()(torch.zeros(2, 1, 6), start=torch.tensor([1.5])),
            "posenc_ext::add_sinusoidal: start must",
        ),
        (
            lambda: TimestepEmbedding(8, True, 0)(torch.tensor([True])),
            "posenc_ext::sinusoidal: positions must",
        ),
        (
            lambda: TimestepEmbedding(8, True, 0, dtype=torch.int64)(torch.ones(1)),
            "posenc_ext::sinusoidal: dtype must",
        ),
    ],
)
def test_errors_of_the_ops(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()
