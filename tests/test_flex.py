"""score_mods and mask_mods of FlexAttention against the attention ops."""

import doctest

import pytest
import torch
from support import each
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import posenc_ext
from posenc_ext import flex

BOUND = 1e-6  # of float32 attention on values of order 1, sums in another order


def attended(queries, keys, heads=3, samples=4):
    """Values of order 1."""
    return (torch.randn(samples, heads, n, 8) for n in (queries, keys, keys))


WINDOWS = [
    ([5], None, 0),
    ([3, 4], None, 0),
    ([3, 4], None, 1),
    ([2, 3, 2], None, 0),
    ([2, 3], [4, 6], 0),
    ([2, 3], [5, 3], 1),
]


@each(("window", "query_size", "prefix_tokens"), WINDOWS)
def test_window(window, query_size, prefix_tokens):
    rows = torch.Size(2 * size - 1 for size in window).numel() + 3 * prefix_tokens
    table = torch.randn(rows, 3)
    bias = posenc_ext.window_bias(table, window, query_size=query_size, prefix_tokens=prefix_tokens)
    q, k, v = attended(*bias.shape[1:])
    given = {"query_size": query_size, "prefix_tokens": prefix_tokens}
    expected = posenc_ext.window_attention(q, k, v, table, window, **given)
    actual = flex_attention(q, k, v, score_mod=flex.window_score_mod(table, window, **given))
    torch.testing.assert_close(actual, expected, rtol=0, atol=BOUND)


@each("bidirectional", [True, False])
@each("q_offset", [0, 37])
def test_t5(bidirectional, q_offset):
    table, (q, k, v) = torch.randn(32, 3), attended(50, 300)
    given = {"bidirectional": bidirectional, "q_offset": q_offset}
    expected = posenc_ext.t5_attention(q, k, v, table, **given)
    actual = flex_attention(q, k, v, score_mod=flex.t5_score_mod(table, **given), scale=1.0)
    torch.testing.assert_close(actual, expected, rtol=0, atol=3 * BOUND)


def score_values(score_mod, heads, queries, keys):
    """What a score_mod adds to scores of 0, [heads, Q, K]."""
    axes = torch.arange(heads)[:, None, None], torch.arange(queries)[:, None], torch.arange(keys)
    return score_mod(torch.zeros(heads, queries, keys, dtype=torch.float64), torch.tensor(0), *axes)


def test_biases_are_those_of_the_ops():
    for window, query_size, prefix_tokens in WINDOWS:
        rows = torch.Size(2 * size - 1 for size in window).numel() + 3 * prefix_tokens
        table = torch.randn(rows, 3, dtype=torch.float64)
        given = {"query_size": query_size, "prefix_tokens": prefix_tokens}
        expected = posenc_ext.window_bias(table, window, **given)
        assert torch.equal(
            score_values(flex.window_score_mod(table, window, **given), *expected.shape), expected
        )
    for rows, bidirectional, distance, offset in (
        (32, True, 128, 0),
        (32, False, 128, 250),
        (9, True, 6, -3),
    ):
        table = torch.randn(rows, 3, dtype=torch.float64)
        given = {"bidirectional": bidirectional, "max_distance": distance, "q_offset": offset}
        expected = posenc_ext.t5_bias(table, 40, 400, **given)
        assert torch.equal(score_values(flex.t5_score_mod(table, **given), *expected.shape), expected)
    slopes = posenc_ext.alibi_slopes(3, dtype=torch.float64)
    expected = posenc_ext.alibi_bias(slopes, 5, 9, q_offset=2)
    assert torch.equal(score_values(flex.alibi_score_mod(slopes, q_offset=2), 3, 5, 9), expected)


def test_alibi_with_a_causal_mask():
    slopes, (q, k, v) = posenc_ext.alibi_slopes(3), attended(128, 256)
    expected = posenc_ext.alibi_attention(q, k, v, slopes, q_offset=128, causal=True)
    mask = create_block_mask(flex.causal_mask_mod(128), None, None, 128, 256, device="cpu")
    actual = flex_attention(q, k, v, score_mod=flex.alibi_score_mod(slopes, q_offset=128), block_mask=mask)
    torch.testing.assert_close(actual, expected, rtol=0, atol=BOUND)


def test_regions_of_shifted_windows():
    """With the bias of the window, as Swin adds both; and as a mask."""
    table, regions = torch.randn(49, 3), torch.randint(0, 3, (2, 16))
    q, k, v = attended(16, 16)
    expected = posenc_ext.window_attention(q, k, v, table, [4, 4], regions=regions)
    bias, shift = flex.window_score_mod(table, [4, 4]), flex.regions_score_mod(regions)
    both = flex_attention(q, k, v, score_mod=lambda score, *at: shift(bias(score, *at), *at))
    torch.testing.assert_close(both, expected, rtol=0, atol=BOUND)
    mask = create_block_mask(flex.regions_mask_mod(regions), 4, None, 16, 16, device="cpu", BLOCK_SIZE=16)
    masked = flex_attention(q, k, v, score_mod=bias, block_mask=mask)
    torch.testing.assert_close(masked, expected, rtol=0, atol=BOUND)


def test_examples():
    result = doctest.testmod(flex)
    assert result.failed == 0
    assert result.attempted > 12


def test_arguments_are_checked():
    with pytest.raises(RuntimeError, match="window_bias: table must have 9 rows"):
        flex.window_score_mod(torch.zeros(8, 1), [2, 2])
    with pytest.raises(RuntimeError, match="t5_bias: table must have at least 4 rows"):
        flex.t5_score_mod(torch.zeros(3, 1))
    with pytest.raises(RuntimeError, match="alibi_bias: slopes must have 1 dimension"):
        flex.alibi_score_mod(torch.zeros(3, 1))
