"""The modules that hold learned positions, against plain code; tests/parity has the libraries."""

import copy
import io
import math
import pickle
import re
import warnings

import pytest
import torch
from support import each, same_bits
from test_nn_every import TOKENS, results, vision
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

import posenc_ext
from posenc_ext.nn import AttentionPool2d, LearnedPositionalEmbedding, VisionPositionEmbedding
from posenc_ext.reference import round_once

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

EVERY_TOKENS = each("options", TOKENS.values(), ids=TOKENS)


# VisionPositionEmbedding


def plain_vision(module, x, pos_embed=None):
    """Concatenate and add, or add and concatenate, in float64."""
    parameters = {name: p.double() for name, p in module.named_parameters()}
    pos_embed = parameters["pos_embed"] if pos_embed is None else pos_embed.double()
    names = [name for name in ("cls_token", "dist_token", "reg_token") if name in parameters]
    tokens = [parameters[name].expand(len(x), -1, -1) for name in names]
    if module.embed_prefix:
        return torch.cat([*tokens, x.double()], 1) + pos_embed
    return torch.cat([*tokens, x.double() + pos_embed], 1)


@EVERY_TOKENS
@each("dtype", DTYPES)
def test_vision_is_concatenation_and_sum(options, dtype):
    module = vision(**options).to(dtype)
    x = torch.randn(2, 12, 6).to(dtype)
    assert same_bits(module(x), round_once(plain_vision(module, x), dtype))
    image = x.transpose(1, 2).contiguous().view(2, 6, 3, 4)
    assert same_bits(module(image), module(x))
    assert same_bits(module(image.contiguous(memory_format=torch.channels_last)), module(x))


@EVERY_TOKENS
def test_gradients_of_vision(options):
    module = vision(**options).double()
    x = torch.randn(3, 12, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(module(x))
    inputs = [x, *module.parameters()]
    actual = torch.autograd.grad(module(x), inputs, upstream)
    expected = torch.autograd.grad(plain_vision(module, x), inputs, upstream)
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-14, atol=1e-14)


@EVERY_TOKENS
@each("size", [[5, 6], [4, 3], [1, 1]])
def test_vision_at_another_size(options, size):
    module = vision(**options)
    prefix = module.pos_embed.shape[1] - 12
    pos_embed = posenc_ext.resample_position_embedding(module.pos_embed, size, prefix, [3, 4])
    x = torch.randn(2, size[0] * size[1], 6)
    expected = round_once(plain_vision(module, x, pos_embed), x.dtype)
    assert same_bits(module(x, size), expected)
    assert same_bits(module(x.transpose(1, 2).reshape(2, 6, *size)), expected)


@EVERY_TOKENS
def test_vision_loads_another_square_grid(options):
    small, large = vision(5, **options), vision((7, 6), **options)
    prefix = small.pos_embed.shape[1] - 25
    state = small.state_dict()
    keys = {key: tensor.clone() for key, tensor in state.items()}
    assert large.load_state_dict(state) == ([], [])
    expected = posenc_ext.resample_position_embedding(small.pos_embed, [7, 6], prefix)
    assert same_bits(large.pos_embed, expected)
    assert large.pos_embed.requires_grad
    assert all(
        same_bits(state[key], tensor) for key, tensor in keys.items()
    )  # the caller's own is left alone
    model, loaded = (torch.nn.ModuleDict({"embed": vision(s, **options)}) for s in (5, (7, 6)))
    assert loaded.load_state_dict(model.state_dict()) == ([], [])
    assert loaded["embed"].pos_embed.shape == large.pos_embed.shape


def through_a_file(state):
    """A checkpoint as torch.save writes it: with its metadata."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


GRIDS = {
    "vision": ("pos_embed", lambda size, **options: vision(size, **options)),
    "pool": ("positional_embedding", lambda size, **options: AttentionPool2d(size, 8, 2, **options)),
}
EVERY_GRID = each(("name", "build"), GRIDS.values(), ids=GRIDS)


@EVERY_GRID
def test_a_recorded_grid_is_resampled_axis_by_axis(name, build):
    for old, new in (
        ((4, 6), (8, 12)),
        ((6, 6), (4, 9)),
        ((4, 6), (6, 4)),
        ((4, 6), (4, 6)),
        ((3, 2), (2, 2)),
    ):
        module = torch.nn.ModuleDict({"embed": build(old)})
        own = getattr(module["embed"], name)
        expected = posenc_ext.resample_position_embedding(own, list(new), 1, list(old))
        for state in (module.state_dict(), through_a_file(module.state_dict())):
            other = torch.nn.ModuleDict({"embed": build(new)})
            assert other.load_state_dict(state) == ([], [])
            assert same_bits(getattr(other["embed"], name), expected)
        # An entry that is resampled by hand is not what the record tells of.
        state[f"embed.{name}"] = expected.detach()
        if old[0] * old[1] != new[0] * new[1]:
            other = torch.nn.ModuleDict({"embed": build(new)})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                other.load_state_dict(state)
            assert same_bits(getattr(other["embed"], name), expected)


@EVERY_GRID
def test_a_grid_that_is_not_recorded_is_never_taken_without_a_word(name, build):
    """safetensors, torch.distributed.checkpoint and other code keep no metadata."""
    state = dict(build((4, 6)).state_dict())
    module = build((6, 4))
    with pytest.warns(UserWarning, match=rf"{name} has no record .* taken as 1 rows and the grid \[6, 4\]"):
        module.load_state_dict(state)
    assert same_bits(getattr(module, name), state[name])
    mend = r"are not a square, and none is recorded: checkpoint_grid=\[H, W\] says it"
    for size in ((8, 12), (5, 5)):
        module = build(size)
        before = getattr(module, name).clone()
        with pytest.raises(RuntimeError, match=f"size mismatch for {name}: 25 rows .*{mend}"):
            module.load_state_dict(state)
        assert same_bits(getattr(module, name), before)
    square = dict(build(6).state_dict())
    with pytest.raises(RuntimeError, match="37 rows may be more than one grid"):
        build((4, 9)).load_state_dict(square)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(6).load_state_dict(square)
        for old, new, loaded in (
            ((6, 6), (4, 9), square),
            ((4, 9), (4, 9), square),
            ((4, 6), (8, 12), state),
        ):
            module = build(new, checkpoint_grid=old)
            module.load_state_dict(loaded)
            expected = posenc_ext.resample_position_embedding(loaded[name], list(new), 1, list(old))
            assert same_bits(getattr(module, name), expected)


def test_rows_in_front_of_the_grid_are_never_mistaken_for_cells():
    plain, registers = vision(4, class_token=False), vision(7, registers=6)
    state = plain.state_dict()
    with pytest.raises(
        RuntimeError, match=r"pos_embed must have 7 rows in front of its \[4, 4\] grid, got 0"
    ):
        registers.load_state_dict(state, strict=False)
    with pytest.raises(RuntimeError, match="16 rows may be more than one grid"):  # 7 + 3 x 3, or 4 x 4
        registers.load_state_dict(dict(state), strict=False)
    with pytest.warns(UserWarning, match=r"taken as 7 rows and the grid \[3, 3\]"):
        vision(3, registers=6).load_state_dict(dict(state), strict=False)


def test_vision_leaves_what_is_no_square_to_the_error_of_torch():
    with pytest.raises(RuntimeError, match="size mismatch for pos_embed"):
        vision(3, dim=8).load_state_dict(vision(4, dim=6).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        vision().load_state_dict({"pos_embed": vision().pos_embed})


@each("order", ["mae", "mocov3", "timm"])
@each("embed_prefix", [True, False])
@each("trainable", [True, False])
def test_vision_from_sinusoidal(order, embed_prefix, trainable):
    module = VisionPositionEmbedding.from_sinusoidal(
        (2, 3), 8, order, 100.0, trainable, embed_prefix=embed_prefix, dist_token=True
    )
    rows = 2 if embed_prefix else 0
    expected = posenc_ext.sinusoidal_grid([2, 3], 8, order, 100.0, extra_tokens=rows)
    assert same_bits(module.pos_embed, expected.unsqueeze(0))
    assert module.pos_embed.requires_grad == trainable
    assert module.cls_token.requires_grad
    assert set(dict(module.named_parameters())) == {"cls_token", "dist_token", "pos_embed"}


@each("trainable", [True, False])
def test_reset_restores_sinusoids(trainable):
    """After to_empty(), in copies, in every dtype; and what is random beside them is drawn again."""
    builds = (
        lambda: VisionPositionEmbedding.from_sinusoidal((2, 3), 8, "timm", 100.0, trainable, dist_token=True),
        lambda: LearnedPositionalEmbedding.from_sinusoidal(
            5, 7, 50.0, 1.0, "concat", "zero", trainable, offset=2
        ),
    )
    for build, name in zip(builds, ("pos_embed", "weight"), strict=True):
        exact = getattr(build().double(), name)  # rounded to float32
        with torch.device("meta"):
            on_meta = build()
        assert getattr(on_meta, name).is_meta
        on_meta.reset_parameters()
        for module in (
            on_meta.to_empty(device="cpu"),
            copy.deepcopy(build()),
            pickle.loads(pickle.dumps(build())),
        ):
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.fill_(torch.nan)
            module.reset_parameters()
            assert same_bits(getattr(module, name), exact.float())
            assert getattr(module, name).requires_grad == trainable
            assert not any(parameter.isnan().any() for parameter in module.parameters())
        for dtype in (torch.float64, torch.bfloat16):
            module = build().to(dtype)
            module.reset_parameters()
            assert getattr(module, name).dtype == dtype
            torch.testing.assert_close(getattr(module, name), exact.to(dtype), rtol=0, atol=2**-24)


def test_reset_makes_a_pool_as_it_was_constructed():
    module = AttentionPool2d(30, 64, 2)
    expected = {name: parameter.std().item() for name, parameter in module.named_parameters()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    module.reset_parameters()
    for name, parameter in module.named_parameters():
        assert parameter.std().item() == pytest.approx(expected[name], rel=0.3)


def test_maps_with_channels_last():
    module, pool = vision(dist_token=True), AttentionPool2d((3, 4), 6, 2)
    for size in ((3, 4), (5, 2)):
        image = torch.randn(2, 6, *size)
        assert same_bits(module(image.permute(0, 2, 3, 1)), module(image))
        assert same_bits(pool(image.permute(0, 2, 3, 1)), pool(image))
    both = torch.randn(2, 6, 5, 6)  # [B, dim, H, W], not [B, H, W, dim]
    assert same_bits(module(both), module(both.flatten(2).mT, [5, 6]))


# Sizes that are not known beforehand


SIZED = {
    "vision": lambda: vision((4, 4)),
    "vision-antialias-off": lambda: vision((4, 4), antialias=False),
    "pool": lambda: AttentionPool2d(4, 6, 2),
}
SIZES = ((5, 7), (4, 4), (9, 3), (4, 7))


@pytest.mark.filterwarnings("ignore")  # that checks of sizes are traced once
def test_traces_follow_the_size():
    for build in SIZED.values():
        module = build()
        for traced_at in ((4, 4), (5, 6)):
            traced = torch.jit.trace(module, torch.randn(2, 6, *traced_at), check_trace=False)
            for size in SIZES:
                x = torch.randn(3, 6, *size)
                assert same_bits(traced(x), module(x))


def test_exports_have_no_guard_that_excludes_the_own_size():
    height, width = torch.export.Dim("height", min=2, max=64), torch.export.Dim("width", min=2, max=64)
    for build in SIZED.values():
        module = build()
        for exported_at in ((4, 4), (5, 6)):
            x = torch.randn(2, 6, *exported_at)
            program = torch.export.export(module, (x,), dynamic_shapes={"x": {2: height, 3: width}}).module()
            for size in SIZES:
                x = torch.randn(2, 6, *size)
                torch.testing.assert_close(program(x), module(x), rtol=2**-20, atol=2**-20)


def test_one_graph_trains_at_every_size():
    for name in ("vision", "pool"):
        module = SIZED[name]()
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(module, dynamic=True, fullgraph=True, backend=counter)
        compiled(torch.randn(2, 6, *SIZES[0], requires_grad=True))
        graphs = counter.frame_count
        for size in SIZES:
            arguments = (torch.randn(2, 6, *size),)
            for mine, theirs in zip(results(compiled, arguments), results(module, arguments), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=2**-20, atol=2**-20)
        assert counter.frame_count == graphs


@EVERY_TOKENS
def test_vision_starts_small(options):
    module = VisionPositionEmbedding(40, 40, **options)
    for parameter in module.parameters():
        assert parameter.abs().max() < 0.1
    assert module.pos_embed.std().item() == pytest.approx(0.02, rel=0.02)


@EVERY_TOKENS
def test_vision_promotes_half_patches_as_cat_and_add_do(options):
    """Under autocast a convolution's patches are bfloat16 and the parameters float32."""
    module = vision(**options)
    x = torch.randn(2, 12, 6).bfloat16()
    assert same_bits(module(x), round_once(plain_vision(module, x), torch.float32))


# LearnedPositionalEmbedding


@each("dtype", DTYPES)
@each("batch_first", [True, False])
@each(("offset", "past", "scale"), [(0, 0, 1.0), (2, 3, 1.0), (2, 3, math.sqrt(6))])
def test_learned_is_a_sum(dtype, batch_first, offset, past, scale):
    module = LearnedPositionalEmbedding(9, 6, offset, 0.0, scale, batch_first).to(dtype)
    x = torch.randn(2, 4, 6).to(dtype)
    rows = module.weight[offset + past : offset + past + 4].double()
    exact = x.double() * scale + rows
    actual = module(x if batch_first else x.transpose(0, 1), past)
    actual = actual if batch_first else actual.transpose(0, 1)
    if dtype == torch.float64:  # the plain product, below 8, is rounded on its own
        torch.testing.assert_close(actual, exact, rtol=0, atol=2**-50)
    else:
        assert same_bits(actual, round_once(exact, dtype))


def test_decoding_step_by_step_is_the_whole():
    module = LearnedPositionalEmbedding(9, 6, offset=2)
    x = torch.randn(2, 9, 6)
    steps = [module(x[:, i : i + 1], i) for i in range(9)]
    assert same_bits(torch.cat(steps, 1), module(x))


def test_gradient_of_learned():
    module = LearnedPositionalEmbedding(9, 6, offset=2, x_scale=1.5).double()
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)
    grad_x, grad_weight = torch.autograd.grad(module(x, 1), [x, module.weight], upstream)
    torch.testing.assert_close(grad_x, upstream * 1.5, rtol=1e-15, atol=0)
    expected = F.pad(upstream.sum(0), (0, 0, 3, 4))
    torch.testing.assert_close(grad_weight, expected, rtol=1e-14, atol=1e-14)


def at_positions(module, x, positions):
    """x and the rows of its positions [B, L], in float64."""
    return x.double() * module.x_scale + module.weight.double()[positions + module.offset]


@each("batch_first", [True, False])
@each("offset", [0, 2])
def test_learned_at_the_positions_of_each_sample(batch_first, offset):
    module = LearnedPositionalEmbedding(9, 6, offset, batch_first=batch_first)
    x = torch.randn(3, 4, 6)

    def call(x, *arguments):
        return module(x, *arguments) if batch_first else module(x.transpose(0, 1), *arguments).transpose(0, 1)

    past = torch.tensor([-2, 0, 5])  # two tokens of padding on the left, a cache of five tokens
    positions = (past.unsqueeze(1) + torch.arange(4)).clamp(min=0)
    expected = round_once(at_positions(module, x, positions), x.dtype)
    for given in (past, past.unsqueeze(1), past.int()):
        assert same_bits(call(x, given), expected)
    for given in (positions, positions.int(), positions.to(torch.uint8)):
        assert same_bits(call(x, 0, given), expected)
    assert same_bits(call(x, 0, positions[1:2]), call(x))
    for given in (torch.tensor(5), torch.tensor([5])):
        assert same_bits(call(x, given), call(x, 5))
    packed = x.flatten(0, 1)
    assert same_bits(module(packed, 0, positions.flatten()), expected.flatten(0, 1))
    assert same_bits(module(x[0], 3), call(x[:1], 3)[0])
    assert same_bits(module(x[0], torch.tensor([3])), call(x[:1], 3)[0])
    long = LearnedPositionalEmbedding(300, 6, offset)
    last = torch.full([2], 255, dtype=torch.uint8)  # the last of its dtype, before the offset
    assert same_bits(long(x[0, :2], 0, last), long(x[0, :2], 0, last.long()))
    padding = torch.full([3, 4], -offset)  # the first of the rows in front, where OPT has padding
    assert same_bits(call(x, 0, padding), round_once(at_positions(module, x, padding), x.dtype))


def test_gradient_of_learned_at_positions():
    module = LearnedPositionalEmbedding(9, 6, offset=2, x_scale=1.5).double()
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    positions = torch.randint(0, 9, (3, 4))
    upstream = torch.randn_like(x)
    inputs = [x, module.weight]
    actual = torch.autograd.grad(module(x, 0, positions), inputs, upstream)
    expected = torch.autograd.grad(at_positions(module, x, positions), inputs, upstream)
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-14, atol=1e-14)


def test_learned_from_sinusoidal():
    module = LearnedPositionalEmbedding.from_sinusoidal(5, 7, 50.0, 1.0, "concat", "zero", False, offset=2)
    expected = posenc_ext.sinusoidal_table(5, 7, base=50.0, freq_shift=1.0, layout="concat", odd="zero")
    assert same_bits(module.weight, torch.cat([torch.zeros(2, 7), expected]))
    assert not module.weight.requires_grad
    assert LearnedPositionalEmbedding.from_sinusoidal(5, 6).weight.requires_grad


# Dropout


@each("p", [0.1, 0.5])
@each("build", ["vision", "learned"])
def test_dropout_in_training(build, p):
    if build == "vision":
        module, x = vision((16, 16), 32, dropout=p), torch.rand(4, 256, 32) + 1
    else:
        module, x = LearnedPositionalEmbedding(256, 32, dropout=p), torch.rand(4, 256, 32) + 1
    kept = module.eval()(x)
    torch.manual_seed(3)
    dropped = module.train()(x)
    mask = dropped == 0
    n = mask.numel()
    assert abs(mask.sum().item() - p * n) < 5 * math.sqrt(p * (1 - p) * n)
    torch.testing.assert_close(dropped[~mask], kept[~mask] / (1 - p), rtol=2**-22, atol=0)
    torch.manual_seed(3)
    assert same_bits(module(x), dropped)
    module.dropout.p = 0.0
    assert same_bits(module(x), kept)


# AttentionPool2d


def plain_pool(module, x, positions=None):
    """CLIP's formula: prepend the mean, add positions, one attention layer, keep its first row."""
    positions = module.positional_embedding if positions is None else positions
    cells = x.flatten(2).permute(2, 0, 1)
    tokens = torch.cat([cells.mean(0, keepdim=True), cells]) + positions[:, None]
    q, k, v, c = module.q_proj, module.k_proj, module.v_proj, module.c_proj
    out, _ = F.multi_head_attention_forward(
        tokens,
        tokens,
        tokens,
        embed_dim_to_check=x.shape[1],
        num_heads=module.num_heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([q.bias, k.bias, v.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=c.weight,
        out_proj_bias=c.bias,
        use_separate_proj_weight=True,
        q_proj_weight=q.weight,
        k_proj_weight=k.weight,
        v_proj_weight=v.weight,
        need_weights=False,
    )
    return out[0]


@each("size", [(5, 5), (3, 8), (1, 1)])
@each("heads", [1, 4])
@each("out", [None, 3])
def test_pool_is_the_formula_of_clip(size, heads, out):
    module = AttentionPool2d(5, 8, heads, out).double()
    x = torch.randn(2, 8, *size, dtype=torch.float64, requires_grad=True)
    positions = posenc_ext.resample_position_embedding(module.positional_embedding, list(size))
    actual, expected = module(x), plain_pool(module, x, positions)
    assert actual.shape == (2, out or 8)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(actual)
    inputs = [x, *module.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(actual, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    last = x.detach().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(module(last), actual, rtol=1e-12, atol=1e-12)


def test_pool_has_the_parameters_of_clip():
    shapes = {name: tuple(p.shape) for name, p in AttentionPool2d(7, 8, 2, 3).named_parameters()}
    linear = {f"{p}_proj.{w}": s for p in "kqv" for w, s in (("weight", (8, 8)), ("bias", (8,)))}
    output = {"c_proj.weight": (3, 8), "c_proj.bias": (3,)}
    assert shapes == {"positional_embedding": (50, 8), **linear, **output}


def test_pool_loads_another_square_map():
    small, large = AttentionPool2d(4, 8, 2), AttentionPool2d((6, 5), 8, 2)
    assert large.load_state_dict(small.state_dict()) == ([], [])
    expected = posenc_ext.resample_position_embedding(small.positional_embedding, [6, 5])
    assert same_bits(large.positional_embedding, expected)
    assert same_bits(large.c_proj.weight, small.c_proj.weight)
    with pytest.raises(RuntimeError, match="size mismatch for positional_embedding"):
        small.load_state_dict(dict(large.state_dict()))


def test_pool_adds_float32_positions_to_half_maps():
    """CLIP's mixed precision: projections in float16, the positions in float32."""
    module = AttentionPool2d(3, 8, 2)
    for layer in (module.q_proj, module.k_proj, module.v_proj, module.c_proj):
        layer.half()
    x = torch.randn(2, 8, 3, 3).half()
    positions = module.positional_embedding.half()
    assert module(x).dtype == torch.float16
    exact = plain_pool(copy.deepcopy(module).double(), x.double(), positions.double())
    # Four products and a softmax in float16, of values of order 1.
    torch.testing.assert_close(module(x).double(), exact, rtol=0, atol=2**-8)


def test_pool_starts_as_clip_does():
    module = AttentionPool2d(30, 64, 2)
    assert module.positional_embedding.std().item() == pytest.approx(64**-0.5, rel=0.02)


# Errors


@each(
    ("call", "message"),
    [
        (lambda: vision(0), "VisionPositionEmbedding: grid_size must be a positive size or two, got 0"),
        (
            lambda: vision((2, 3, 4)),
            "VisionPositionEmbedding: grid_size must be a positive size or two, got (2, 3, 4)",
        ),
        (lambda: vision(dim=0), "VisionPositionEmbedding: dim must be positive, got 0"),
        (lambda: vision(registers=-1), "VisionPositionEmbedding: registers must be >= 0, got -1"),
        (lambda: vision(dropout=1.1), "VisionPositionEmbedding: dropout must be in [0, 1], got 1.1"),
        (
            lambda: vision()(torch.zeros(12, 6)),
            "VisionPositionEmbedding: x must have 3 or 4 dimensions, got 2",
        ),
        (
            lambda: vision()(torch.zeros(1, 11, 6)),
            "VisionPositionEmbedding: x must have 12 patches for size [3, 4], got 11",
        ),
        (
            lambda: vision()(torch.zeros(1, 12, 6), [3, 5]),
            "VisionPositionEmbedding: x must have 15 patches for size [3, 5], got 12",
        ),
        (
            lambda: vision()(torch.zeros(1, 12, 6), [12]),
            "VisionPositionEmbedding: size must have 2 sizes, got [12]",
        ),
        (
            lambda: vision()(torch.zeros(1, 6, 3, 4), [3, 4]),
            "VisionPositionEmbedding: size must be None with a map, got [3, 4]",
        ),
        (
            lambda: vision()(torch.zeros(1, 6, 0, 4)),
            "posenc_ext.resample_position_embedding: new_size must have 2 positive sizes, got [0, 4]",
        ),
        (
            lambda: LearnedPositionalEmbedding(0, 6),
            "LearnedPositionalEmbedding: num_embeddings must be positive, got 0",
        ),
        (
            lambda: LearnedPositionalEmbedding(9, 0),
            "LearnedPositionalEmbedding: embedding_dim must be positive, got 0",
        ),
        (
            lambda: LearnedPositionalEmbedding(9, 6, -1),
            "LearnedPositionalEmbedding: offset must be >= 0, got -1",
        ),
        (
            lambda: LearnedPositionalEmbedding(9, 6, dropout=-0.5),
            "LearnedPositionalEmbedding: dropout must be in [0, 1], got -0.5",
        ),
        (
            lambda: LearnedPositionalEmbedding(9, 6)(torch.zeros(1, 1, 4, 6)),
            "LearnedPositionalEmbedding: x must have 2 or 3 dimensions, got 4",
        ),
        (
            lambda: LearnedPositionalEmbedding(9, 6)(torch.zeros(2, 4, 6), torch.zeros(3).long()),
            "LearnedPositionalEmbedding: past_length must have one value or 2, got 3",
        ),
        (
            lambda: LearnedPositionalEmbedding(9, 6)(torch.zeros(2, 4, 6), torch.zeros(2, 4).long()),
            "LearnedPositionalEmbedding: past_length must be an int or an integer tensor [], [1], [B] or "
            "[B, 1], got torch.int64 [2, 4]",
        ),
        (
            lambda: LearnedPositionalEmbedding(9, 6)(torch.zeros(2, 4, 6), 1, torch.zeros(2, 4).long()),
            "LearnedPositionalEmbedding: past_length must be 0 with position_ids, got 1",
        ),
        (
            lambda: LearnedPositionalEmbedding(9, 6)(torch.zeros(2, 4, 6), 0, torch.zeros(2, 4)),
            "LearnedPositionalEmbedding: position_ids must be integers, got torch.float32",
        ),
        (
            lambda: LearnedPositionalEmbedding(9, 6)(torch.zeros(1, 4, 6), -1),
            "LearnedPositionalEmbedding: past_length must be >= 0, got -1",
        ),
        (
            lambda: LearnedPositionalEmbedding(9, 6, 2)(torch.zeros(1, 4, 6), 6),
            "LearnedPositionalEmbedding: past_length + L must be at most 9, got 6 + 4",
        ),
        (
            lambda: AttentionPool2d(0, 6, 2),
            "AttentionPool2d: spacial_dim must be a positive size or two, got 0",
        ),
        (lambda: AttentionPool2d(3, 6, 0), "AttentionPool2d: num_heads must be positive, got 0"),
        (
            lambda: AttentionPool2d(3, 6, 4),
            "AttentionPool2d: embed_dim must be a positive multiple of num_heads 4, got 6",
        ),
        (lambda: AttentionPool2d(3, 6, 2, 0), "AttentionPool2d: output_dim must be positive, got 0"),
        (
            lambda: AttentionPool2d(3, 6, 2)(torch.zeros(1, 5, 3, 3)),
            "AttentionPool2d: x must be [B, 6, H, W] with H, W > 0, got [1, 5, 3, 3]",
        ),
        (
            lambda: AttentionPool2d(3, 6, 2)(torch.zeros(1, 6, 3, 0)),
            "AttentionPool2d: x must be [B, 6, H, W] with H, W > 0, got [1, 6, 3, 0]",
        ),
    ],
)
def test_value_errors(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
