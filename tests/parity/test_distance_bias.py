"""T5, LayoutLMv3 and ALiBi biases against transformers: values, gradients, checkpoints, whole models."""

import itertools
import math

import pytest
import torch

REASON = "the libraries are in the environment of the CUDA build (requirements/models.txt)"
transformers = pytest.importorskip("transformers", reason=REASON)

from transformers.models.bloom.modeling_bloom import build_alibi_tensor  # noqa: E402
from transformers.models.layoutlmv3.modeling_layoutlmv3 import LayoutLMv3Encoder  # noqa: E402
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor  # noqa: E402
from transformers.models.t5.modeling_t5 import T5Attention  # noqa: E402

import posenc_ext  # noqa: E402
from posenc_ext.nn import AlibiBias, T5RelativePositionBias  # noqa: E402

# T5


def t5_attention(num_buckets, max_distance, decoder, heads=2):
    config = transformers.T5Config(
        d_model=4,
        d_kv=2,
        num_heads=heads,
        relative_attention_num_buckets=num_buckets,
        relative_attention_max_distance=max_distance,
    )
    config.is_decoder = decoder
    return T5Attention(config, has_relative_attention_bias=True, layer_idx=0)


def t5_pair(num_buckets=32, max_distance=128, decoder=False, heads=3):
    """T5Attention and ours, with its weight by way of checkpoints in both directions."""
    original = t5_attention(num_buckets, max_distance, decoder, heads)
    ours = T5RelativePositionBias(heads, num_buckets, max_distance, bidirectional=not decoder)
    whole = original.state_dict()
    position = {key: value for key, value in whole.items() if key.startswith("relative")}
    assert ours.load_state_dict(position) == ([], [])
    assert set(ours.state_dict()) == set(position)
    torch.nn.init.normal_(ours.relative_attention_bias.weight)
    assert original.load_state_dict({**whole, **ours.state_dict()}) == ([], [])
    return original, ours


def admitted(num_buckets, max_distance, bidirectional):
    try:
        return T5RelativePositionBias(1, num_buckets, max_distance, bidirectional)
    except ValueError:
        return None


def test_t5_buckets_of_every_configuration(compare, record_property, capsys):
    """All distances up to twice max_distance, in at least 400 configurations, bit for bit."""
    buckets = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 31, 32, 33, 40, 48, 64, 96, 128, 200, 256)
    distances = (2, 3, 4, 5, 7, 8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 256, 500, 512, 1000, 1024, 4096)
    configurations = compared = 0
    for num_buckets, max_distance, bidirectional in itertools.product(buckets, distances, (True, False)):
        ours = admitted(num_buckets, max_distance, bidirectional)
        if ours is None:
            continue
        reach = 2 * max_distance + num_buckets
        rel = torch.arange(-reach, reach + 1)
        theirs = T5Attention._relative_position_bucket(rel, bidirectional, num_buckets, max_distance)
        with torch.no_grad():  # the bias is the bucket
            ours.relative_attention_bias.weight.copy_(torch.arange(num_buckets)[:, None])
        mine = ours(1, len(rel), reach).flatten()
        compare("transformers", "T5Attention._relative_position_bucket", mine, theirs.float())
        configurations += 1
        compared += len(rel)
    record_property("configurations", configurations)
    record_property("distances", compared)
    with capsys.disabled():
        print(f"\nT5 buckets: {configurations} configurations, {compared} distances, all equal")
    assert configurations >= 400
    assert compared >= 300_000


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize(
    "lengths", [(1, 1, 0), (7, 7, 0), (5, 300, 0), (300, 300, 0), (1, 65, 64), (3, 9, 4)]
)
@pytest.mark.parametrize("sizes", [(32, 128), (8, 20), (33, 60)])
def test_t5_bias(compare, decoder, lengths, sizes):
    original, ours = t5_pair(*sizes, decoder)
    q_len, k_len, past = lengths
    theirs = original.compute_bias(q_len, k_len, past_seen_tokens=past)
    mine = ours(q_len, k_len, past)
    name = "T5Attention.compute_bias, decoder" if decoder else "T5Attention.compute_bias, encoder"
    compare("transformers", name, mine, theirs)
    grad = torch.randint(-8, 9, mine.shape).float()  # sums of integers are exact in any order
    (expected,) = torch.autograd.grad(theirs, [original.relative_attention_bias.weight], grad)
    (actual,) = torch.autograd.grad(mine, [ours.relative_attention_bias.weight], grad)
    compare("transformers", name, actual, expected, what="gradient")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_t5_bias_in_other_dtypes(compare, dtype):
    original, ours = (module.to(dtype) for module in t5_pair(decoder=True))
    theirs = original.compute_bias(5, 300, past_seen_tokens=295)
    compare("transformers", "T5Attention.compute_bias, decoder", ours(5, 300, 295), theirs)


def replace_t5_biases(model):
    """The first layer's bias of each stack by ours, with its weight; returns how many there are."""
    attentions = [m for m in model.modules() if isinstance(m, T5Attention) and m.has_relative_attention_bias]
    for attention in attentions:
        ours = T5RelativePositionBias(
            attention.n_heads,
            attention.relative_attention_num_buckets,
            attention.relative_attention_max_distance,
            bidirectional=not attention.is_decoder,
        )
        ours.load_state_dict({"relative_attention_bias.weight": attention.relative_attention_bias.weight})
        attention.compute_bias = lambda q, k, device=None, past_seen_tokens=0, ours=ours: ours(
            q, k, past_seen_tokens
        )
    return len(attentions)


def test_t5_model_with_a_cache(compare):
    config = transformers.T5Config(
        vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    config._attn_implementation = "eager"
    model = transformers.T5ForConditionalGeneration(config).eval()
    tokens, start = torch.randint(2, 50, (2, 40)), torch.zeros(2, 1, dtype=torch.int64)

    def logits():
        whole = model(input_ids=tokens, decoder_input_ids=tokens[:, :30]).logits
        cache, step, steps = None, start, []
        for _ in range(20):
            output = model(input_ids=tokens, decoder_input_ids=step, past_key_values=cache, use_cache=True)
            cache, step = output.past_key_values, output.logits[:, -1:].argmax(-1)
            steps.append(output.logits)
        return whole, torch.cat(steps, 1)

    theirs = logits()
    assert replace_t5_biases(model) == 2
    mine = logits()
    compare("transformers", "T5ForConditionalGeneration, a whole model", mine[0], theirs[0])
    compare("transformers", "T5ForConditionalGeneration, with a cache", mine[1], theirs[1])


# LayoutLMv3: an index from the data


@pytest.fixture
def layout():
    """An encoder, positions of its tokens, and their boxes."""
    config = transformers.LayoutLMv3Config(
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        has_relative_attention_bias=True,
        has_spatial_attention_bias=True,
        rel_pos_bins=32,
        max_rel_pos=128,
        rel_2d_pos_bins=64,
        max_rel_2d_pos=256,
    )
    encoder = LayoutLMv3Encoder(config)
    positions = torch.arange(70).repeat(2, 1)
    corner = torch.randint(0, 900, (2, 70, 2))
    boxes = torch.cat([corner, corner + torch.randint(1, 100, (2, 70, 2))], -1)
    return encoder, positions, boxes


def layout_index(encoder, coordinates, bins, max_distance):
    rel = coordinates.unsqueeze(-2) - coordinates.unsqueeze(-1)
    return encoder.relative_position_bucket(rel, num_buckets=bins, max_distance=max_distance)


def test_layoutlmv3_values(compare, layout):
    encoder, positions, boxes = layout
    index = layout_index(encoder, positions, encoder.rel_pos_bins, encoder.max_rel_pos)
    bias = posenc_ext.gather_bias(encoder.rel_pos_bias.weight.t(), index)
    compare("transformers", "LayoutLMv3Encoder._cal_1d_pos_emb", bias, encoder._cal_1d_pos_emb(positions))

    sides = []
    for linear, coordinate in ((encoder.rel_pos_x_bias, 0), (encoder.rel_pos_y_bias, 3)):
        index = layout_index(encoder, boxes[..., coordinate], encoder.rel_2d_pos_bins, encoder.max_rel_2d_pos)
        sides.append(posenc_ext.gather_bias(linear.weight.t(), index.to(torch.int32)))
    theirs = encoder._cal_2d_pos_emb(boxes)
    compare("transformers", "LayoutLMv3Encoder._cal_2d_pos_emb", sides[0] + sides[1], theirs)


def test_layoutlmv3_tables_get_the_gradient_that_transformers_leaves_out(compare, layout):
    encoder, positions, boxes = layout
    encoder.double()  # so that only the order of sums tells our gradient from that of plain indexing
    weights = [encoder.rel_pos_bias.weight, encoder.rel_pos_x_bias.weight, encoder.rel_pos_y_bias.weight]
    hidden, target = torch.randn(2, 2, 70, 12, dtype=torch.float64)

    def loss():
        output = encoder(hidden, bbox=boxes, position_ids=positions)
        return (output.last_hidden_state * target).sum()

    theirs = loss()
    theirs.backward()
    assert all(weight.requires_grad and weight.grad is None for weight in weights)

    index = layout_index(encoder, positions, encoder.rel_pos_bins, encoder.max_rel_pos)
    x, y = (
        layout_index(encoder, boxes[..., side], encoder.rel_2d_pos_bins, encoder.max_rel_2d_pos)
        for side in (0, 3)
    )

    def gradients(gather):
        encoder._cal_1d_pos_emb = lambda _: gather(weights[0].t(), index)
        encoder._cal_2d_pos_emb = lambda _: gather(weights[1].t(), x) + gather(weights[2].t(), y)
        ours = loss()
        return ours, torch.autograd.grad(ours, weights)

    ours, actual = gradients(posenc_ext.gather_bias)
    compare("transformers", "LayoutLMv3Encoder, a whole model", ours, theirs)
    _, expected = gradients(lambda table, index: table[index].permute(0, 3, 1, 2))
    for mine, exact in zip(actual, expected, strict=True):
        assert exact.abs().max() > 1e-3
        bound = index.numel() * 2**-52 * exact.abs().max().item()
        compare("transformers", "LayoutLMv3Encoder, a whole model", mine, exact, atol=bound, what="gradient")


# ALiBi


HEADS = pytest.mark.parametrize("heads", [1, 2, 8, 12, 16, 25, 32, 71])


def slope_bound(heads, length):
    """Libraries raise a float32 root to powers up to the number of heads; ours are rounded once."""
    return (2 * heads + 4) * 2**-24 * length


@HEADS
def test_bloom_alibi(compare, heads):
    length = 300
    theirs = build_alibi_tensor(torch.ones(2, length, dtype=torch.int64), heads, torch.float32)
    theirs = theirs.view(2, heads, 1, length)[:1]
    mine = -AlibiBias(heads)(1, length)  # slope * key: a constant per query away from the definition
    atol = 0.0 if heads in (1, 2, 8) else slope_bound(heads, length)  # powers of 2 are exact
    compare("transformers", "bloom build_alibi_tensor", mine, theirs, atol=atol)


@HEADS
def test_mpt_alibi(compare, heads):
    length = 300
    theirs = build_mpt_alibi_tensor(heads, length).unsqueeze(0)
    mine = AlibiBias(heads)(1, length, length - 1)  # the row of the last query
    atol = 0.0 if heads in (1, 2, 8) else 4 * 2**-24 * length  # a power, a reciprocal, a product
    compare("transformers", "mpt build_mpt_alibi_tensor", mine, theirs, atol=atol)


@pytest.mark.parametrize("heads", [8, 12])
@pytest.mark.parametrize("past", [0, 13])
def test_alibi_attention_is_that_of_bloom(compare, heads, past):
    """A constant per query is nothing to the softmax, with the causal mask and with a cache."""
    length = 40
    key_bias = build_alibi_tensor(torch.ones(1, length, dtype=torch.int64), heads, torch.float64)
    key_bias = key_bias.view(1, heads, 1, length)
    queries = length - past
    scores = torch.randn(1, heads, queries, length, dtype=torch.float64)
    ahead = torch.ones(queries, length, dtype=torch.bool).triu(past + 1)
    theirs = (scores + key_bias).masked_fill(ahead, -math.inf).softmax(-1)
    for causal in (True, False):
        bias = AlibiBias(heads, causal=causal)(queries, length, past, torch.float64)
        mine = (scores + bias).masked_fill(ahead, -math.inf).softmax(-1)
        # BLOOM's slopes are float32: an error of slope_bound in the exponent.
        atol = 1e-14 if heads == 8 else slope_bound(heads, length)
        compare("transformers", "bloom build_alibi_tensor, softmax", mine, theirs, atol=atol)
