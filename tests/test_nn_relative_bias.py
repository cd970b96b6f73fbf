"""The modules of relative-position bias: values from the formulas, checkpoints, copies, scripts, errors."""

import copy
import itertools
import math
import re

import pytest
import torch
from support import each, same_bits
from test_nn import plain_positions

import posenc_ext
from posenc_ext import reference
from posenc_ext.nn import (
    AlibiBias,
    LogCoordinatePositionBias,
    RelativePositionBias,
    T5RelativePositionBias,
    WindowRelativePositionBias,
)

WINDOWS = each("window", [(5,), (3, 4), (4, 3), (2, 3, 4)])


def gradients(module, output, grad):
    return torch.autograd.grad(output, list(module.parameters()), grad)


def rounding_bound(upstream_abs_sum, dtype):
    """Of a sum in float32 of at most 2^12 terms, rounded once to dtype."""
    return upstream_abs_sum.double() * (2**12 * 2**-24 + torch.finfo(dtype).eps)


# Windows: checkpoints

EMITTING = each(
    "build",
    [
        lambda form: RelativePositionBias(2, 12, 13, legacy_stride=True, emit_index=form),
        lambda form: WindowRelativePositionBias((12, 13), 2, 1, emit_index=form),
        lambda form: WindowRelativePositionBias((12, 13), 2, emit_index=form, key_window=(14, 9)),
        lambda form: LogCoordinatePositionBias((12, 13), 2, emit_index=form),
    ],
    ids=["legacy", "window", "cross-window", "log-coordinates"],
)


@EMITTING
@each("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_checkpoint_cast_as_a_whole_is_loaded(build, dtype):
    """In the half types the index is rounded, and is not that of the module any more."""
    source = build("square")
    state = {key: tensor.to(dtype) for key, tensor in source.state_dict().items()}
    for form in (None, "flat"):
        assert build(form).load_state_dict(state) == ([], [])
    module = build("square")
    module.load_state_dict(state)
    for key, tensor in source.named_buffers():
        assert same_bits(getattr(module, key), tensor)
    module.load_state_dict(state, assign=True)
    assert module.relative_position_index.dtype is torch.int64
    assert torch.equal(module.relative_position_index, source.relative_position_index)


@EMITTING
@each("assign", [False, True])
def test_buffers_hold_what_is_computed(build, assign):
    """After a checkpoint with another form of the index, or none, and after `to_empty`."""
    expected = dict(build("square").named_buffers())
    for form in ("flat", None):
        with torch.device("meta"):
            module = build("square")
        assert all(tensor.is_meta for tensor in module.buffers())
        if not assign:
            module.to_empty(device="cpu")
            for tensor in module.buffers():
                tensor.zero_()
        assert module.load_state_dict(build(form).state_dict(), assign=assign) == ([], [])
        for key, tensor in expected.items():
            assert same_bits(getattr(module, key), tensor)
    for tensor in module.buffers():
        tensor.zero_()
    module.reset_parameters()
    for key, tensor in expected.items():
        assert same_bits(getattr(module, key), tensor)


def test_buffers_are_converted_as_buffers_are():
    module = LogCoordinatePositionBias((3, 2), 2, emit_index="flat")
    expected = module.half()()
    assert module.relative_coords_table.dtype is torch.float16
    assert module.relative_position_index.dtype is torch.int64
    module.relative_coords_table.zero_()  # nothing reads it
    assert same_bits(module(), expected)


@WINDOWS
@each("prefix_tokens", [0, 1])
@each("form", ["flat", "square"])
def test_emitted_index_is_the_plain_module_s(window, prefix_tokens, form):
    plain = plain_positions.WindowRelativePositionBias(window, 3, prefix_tokens)
    ours = WindowRelativePositionBias(window, 3, prefix_tokens, emit_index=form)
    state, expected = ours.state_dict(), plain.state_dict()
    assert list(state) == list(expected)
    index = expected["relative_position_index"]
    assert torch.equal(state["relative_position_index"], index.flatten() if form == "flat" else index)
    assert state["relative_position_index"].dtype is torch.int64
    assert ours.load_state_dict(state) == ([], [])
    if form == "square":
        assert plain.load_state_dict(state) == ([], [])
        assert torch.equal(plain(), ours())


@WINDOWS
def test_table_with_heads_first_is_read_at_key_minus_query(window):
    module = WindowRelativePositionBias(window, 3, heads_first=True, emit_index="square")
    table = module.relative_position_bias_table
    assert table.shape == (3, *(2 * size - 1 for size in window))
    bias, index = module(), module.state_dict()["relative_position_index"]
    cells = list(itertools.product(*(range(size) for size in window)))
    for (q, query), (k, key) in itertools.product(enumerate(cells), repeat=2):
        place = tuple(b - a + size - 1 for a, b, size in zip(query, key, window, strict=True))
        assert torch.equal(bias[0, :, q, k], table[(slice(None), *place)])
        assert torch.equal(bias[0, :, q, k], table.flatten(1)[:, index[q, k]])


@each(
    "build",
    [
        lambda form: RelativePositionBias(2, 3, 4, emit_index=form),
        lambda form: RelativePositionBias(2, 3, 4, legacy_stride=True, emit_index=form),
        lambda form: WindowRelativePositionBias((3, 4), 2, emit_index=form),
        lambda form: LogCoordinatePositionBias((3, 4), 2, emit_index=form),
    ],
    ids=["expanded", "legacy", "window", "log-coordinates"],
)
def test_index_with_other_values_is_an_error(build):
    state = build("square").state_dict()
    state["relative_position_index"][2, 5] += 1
    with pytest.raises(RuntimeError, match=r"relative_position_index is not what .*Bias.* computes"):
        build(None).load_state_dict(state)
    state["relative_position_index"] = torch.zeros(7, dtype=torch.int64)  # of another window: no statement
    build(None).load_state_dict(state)


def test_keys_inside_a_model():
    def model(form):
        modules = {"a": WindowRelativePositionBias((2, 3), 2, emit_index=form)}
        modules["b"] = LogCoordinatePositionBias((2, 3), 2, 8, mlp_name="meta_mlp", emit_index=form)
        return torch.nn.Sequential(torch.nn.ModuleDict(modules), torch.nn.Linear(2, 2))

    state = model("flat").state_dict()
    assert list(state) == [
        "0.a.relative_position_bias_table",
        "0.a.relative_position_index",
        "0.b.relative_coords_table",
        "0.b.relative_position_index",
        "0.b.meta_mlp.fc1.weight",
        "0.b.meta_mlp.fc1.bias",
        "0.b.meta_mlp.fc2.weight",
        "1.weight",
        "1.bias",
    ]
    keys = list(state)
    target = model(None)
    assert target.load_state_dict(state) == ([], [])
    assert list(state) == keys  # the caller's dictionary is left alone
    for key, tensor in target.state_dict().items():
        assert torch.equal(tensor, state[key])


# Windows: another size


@each("prefix_tokens", [0, 1])
@each("dtype", [torch.float64, torch.bfloat16])
def test_resampled_table(prefix_tokens, dtype):
    module = WindowRelativePositionBias((3, 4), 2, prefix_tokens, emit_index="flat").to(dtype).eval()
    other = module.resampled((6, 5))
    table = module.relative_position_bias_table
    expected = posenc_ext.resample_window_table(table, [3, 4], [6, 5], prefix_tokens)
    assert same_bits(other.relative_position_bias_table, expected)
    assert other.window == [6, 5]
    assert isinstance(other.relative_position_bias_table, torch.nn.Parameter)
    assert not other.training
    assert other().shape == (1, 2, 30 + prefix_tokens, 30 + prefix_tokens)
    assert list(other.state_dict()) == list(module.state_dict())


def test_resampled_table_with_heads_first():
    """Resampling knows no direction: reversed and transposed, the two layouts have the same biases."""
    module = WindowRelativePositionBias((3, 4), 2, heads_first=True).double()
    rows_first = WindowRelativePositionBias((3, 4), 2).double()
    table = module.relative_position_bias_table.detach()
    rows_first.load_state_dict({"relative_position_bias_table": table.flatten(1).flip(1).t()})
    other = module.resampled((6, 5))
    assert other.relative_position_bias_table.shape == (2, 11, 9)
    torch.testing.assert_close(other(), rows_first.resampled((6, 5))(), rtol=0, atol=1e-14)


def test_resampled_to_the_same_window_is_a_copy():
    module = WindowRelativePositionBias((3, 4), 2)
    other = module.resampled((3, 4))
    assert same_bits(other(), module())
    with torch.no_grad():
        other.relative_position_bias_table.zero_()
    assert module.relative_position_bias_table.any()


def test_resampled_windows_of_other_axes():
    for old, new in (((3,), (6,)), ((2, 3, 4), (3, 5, 2))):
        module = WindowRelativePositionBias(old, 2, emit_index="square")
        state = torch.get_rng_state()
        other = module.resampled(new)
        assert torch.equal(torch.get_rng_state(), state)
        expected = posenc_ext.resample_window_table(module.relative_position_bias_table, list(old), list(new))
        assert same_bits(other.relative_position_bias_table, expected)
        index = WindowRelativePositionBias(new, 2, emit_index="square").relative_position_index
        assert torch.equal(other.relative_position_index, index)


# Windows: a smaller one at call time

SMALLER = each(
    ("window", "smaller"),
    [((5,), (2,)), ((3, 4), (2, 4)), ((3, 4), (3, 2)), ((2, 3, 4), (1, 2, 3)), ((2, 3, 4), (2, 3, 4))],
)


def rows_of(window, smaller, prefix_tokens):
    """Where tokens of a smaller window are among those of the window, both with the prefix in front."""
    cells = torch.arange(math.prod(window)).view(window)
    cells = cells[tuple(slice(size) for size in smaller)].flatten() + prefix_tokens
    return torch.cat([torch.arange(prefix_tokens), cells])


@SMALLER
@each("options", [{}, {"prefix_tokens": 1}, {"heads_first": True}])
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_smaller_window_has_the_biases_of_its_pairs(window, smaller, options):
    module = WindowRelativePositionBias(window, 3, **options)
    rows = rows_of(window, smaller, options.get("prefix_tokens", 0))
    expected = module()[:, :, rows[:, None], rows]
    grad = torch.randint(-8, 9, expected.shape).float()
    (expected_gradient,) = gradients(module, expected, grad)
    for call in (module, torch.jit.script(module)):
        assert same_bits(call(smaller), expected)
        assert same_bits(call(list(smaller)), expected)
        assert torch.equal(gradients(module, call(smaller), grad)[0], expected_gradient)


class BiasOfMap(torch.nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.bias = bias

    def forward(self, image):
        return self.bias((image.shape[-2], image.shape[-1]))


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
@each(
    "build",
    [
        lambda: WindowRelativePositionBias((6, 7), 2, prefix_tokens=1),
        lambda: WindowRelativePositionBias((6, 7), 2, heads_first=True),
        lambda: LogCoordinatePositionBias((6, 7), 2, 8),
    ],
    ids=["prefix", "heads-first", "log-coordinates"],
)
def test_window_of_a_map_is_dynamic(build):
    """The module's own window, too: no guard tells it from smaller ones."""
    module = BiasOfMap(build())
    sizes = {0: torch.export.Dim("H", min=2, max=6), 1: torch.export.Dim("W", min=2, max=7)}
    program = torch.export.export(module, (torch.zeros(3, 4),), dynamic_shapes={"image": sizes})
    traced = torch.jit.trace(module, torch.zeros(3, 4), check_trace=False)
    for shape in ((5, 7), (2, 3), (6, 7)):
        image = torch.zeros(shape)
        expected = module(image)
        assert same_bits(program.module()(image), expected)
        assert same_bits(traced(image), expected)


@SMALLER
@each("mode", ["swin", "cr"])
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_log_coordinates_of_a_smaller_window_are_on_the_same_scale(window, smaller, mode):
    module = LogCoordinatePositionBias(window, 3, 16, mode=mode, prefix_tokens=2)
    rows = rows_of(window, smaller, 2)
    for call in (module, torch.jit.script(module)):
        # The MLP's product of fewer rows may be summed in another order: 16 features, 16 sigmoid.
        torch.testing.assert_close(
            call(smaller), module()[:, :, rows[:, None], rows], rtol=0, atol=16 * 2**-20
        )


def test_log_coordinates_of_a_larger_window_are_on_the_same_scale():
    module = LogCoordinatePositionBias((4, 3), 3, 16)
    larger = LogCoordinatePositionBias((6, 5), 3, 16, pretrained_window=(4, 3))
    larger.load_state_dict(module.state_dict())
    assert same_bits(module((6, 5)), larger())


# Keys of another window


@each(("window", "key_window"), [((3,), (5,)), ((3, 4), (5, 2)), ((2, 3, 2), (3, 1, 4))])
@each("heads_first", [False, True])
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_keys_of_another_window_are_read_at_query_minus_key(window, key_window, heads_first):
    module = WindowRelativePositionBias(
        window, 3, heads_first=heads_first, emit_index="square", key_window=key_window
    )
    table, index = module.relative_position_bias_table, module.relative_position_index
    cells = tuple(q + k - 1 for q, k in zip(window, key_window, strict=True))
    grid = table if heads_first else table.t().reshape(3, *cells)
    expected = torch.empty(1, 3, math.prod(window), math.prod(key_window))
    queries = itertools.product(*(range(size) for size in window))
    for q, query in enumerate(queries):
        keys = itertools.product(*(range(size) for size in key_window))
        for k, key in enumerate(keys):
            place = tuple(a - b + size - 1 for a, b, size in zip(query, key, key_window, strict=True))
            if heads_first:
                place = tuple(size - 1 - p for size, p in zip(cells, place, strict=True))
            expected[0, :, q, k] = grid[(slice(None), *place)]
            assert torch.equal(grid.flatten(1)[:, index[q, k]], expected[0, :, q, k])
    for call in (module, torch.jit.script(module)):
        assert same_bits(call(), expected)
        (gradient,) = gradients(module, call(), torch.ones_like(expected))
        counts = index.flatten().bincount(minlength=math.prod(cells)).float().expand(3, -1)
        assert torch.equal(gradient, counts.view_as(gradient) if heads_first else counts.t())


def test_equal_windows_of_keys_are_the_plain_window():
    plain = WindowRelativePositionBias((3, 4), 3, emit_index="square")
    module = WindowRelativePositionBias((3, 4), 3, emit_index="square", key_window=(3, 4))
    assert module.load_state_dict(plain.state_dict()) == ([], [])
    assert same_bits(module(), plain())


@each(("window", "overlapping"), [(4, 6), (3, 3), (2, 5)])
def test_table_of_hat_in_the_order_of_the_docstring(window, overlapping):
    """HAT's `calculate_rpi_oca`: key minus query + window - overlapping + 1, which is negative at times."""
    cells = window + overlapping - 1

    def coordinates(size):
        return torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)

    relative = coordinates(overlapping)[:, None, :] - coordinates(window)[:, :, None]
    relative += window - overlapping + 1
    index = relative[0] * cells + relative[1]
    theirs = torch.randn(cells**2, 3)
    module = WindowRelativePositionBias((window, window), 3, key_window=(overlapping, overlapping))
    rows = (window * (cells + 1) - torch.arange(cells**2)) % cells**2
    module.load_state_dict({"relative_position_bias_table": theirs[rows]})
    assert torch.equal(module()[0], theirs[index].permute(2, 0, 1))


# Expanded windows with the copied code's stride


class LegacyBias(torch.nn.Module):
    """The copied code's arithmetic: rows of the table at a stride of 2h-1."""

    def __init__(self, num_heads, h, w):
        super().__init__()
        self.h, self.w = h, w
        table = torch.randn((2 * h - 1) * (2 * w - 1), num_heads) * 0.02
        self.relative_position_bias_table = torch.nn.Parameter(table)
        y, x = torch.arange(h * w) // w, torch.arange(h * w) % w
        dy, dx = y[:, None] - y + h - 1, x[:, None] - x + w - 1
        self.register_buffer("relative_position_index", dy * (2 * h - 1) + dx)

    def forward(self, H, W):
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = bias.view(self.h, self.w, self.h * self.w, -1)
        bias = bias.repeat_interleave(H // self.h, 0).repeat_interleave(W // self.w, 1)
        return bias.flatten(0, 1).permute(2, 0, 1).unsqueeze(0)


LEGACY_SIZES = each(
    ("h", "w", "H", "W"), [(4, 6, 8, 6), (4, 4, 4, 8), (1, 5, 3, 5), (2, 3, 6, 9), (3, 64, 3, 64)]
)


@LEGACY_SIZES
def test_legacy_stride_is_the_copied_code_s(h, w, H, W):
    original = LegacyBias(3, h, w)
    ours = RelativePositionBias(3, h, w, legacy_stride=True, emit_index="square")
    assert ours.load_state_dict(original.state_dict()) == ([], [])
    assert list(ours.state_dict()) == list(original.state_dict())
    assert original.load_state_dict(ours.state_dict()) == ([], [])
    assert torch.equal(original.relative_position_index, LegacyBias(3, h, w).relative_position_index)
    assert same_bits(ours(H, W), original(H, W))


@LEGACY_SIZES
@each("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradient_with_legacy_stride(h, w, H, W, dtype):
    original = LegacyBias(3, h, w).double()
    ours = RelativePositionBias(3, h, w, legacy_stride=True).double()
    ours.load_state_dict(original.state_dict())
    ours.to(dtype)
    grad = torch.randn(1, 3, H * W, h * w, dtype=torch.float64).to(dtype)
    (actual,) = gradients(ours, ours(H, W), grad)
    (expected,) = gradients(original, original(H, W), grad.double())
    (size,) = gradients(original, original(H, W), grad.double().abs())
    # Two sums, of cells and of rows, each in at least float32 and rounded once to dtype.
    assert ((actual.double() - expected).abs() <= 2 * rounding_bound(size, dtype)).all()


def test_legacy_stride_shares_rows():
    table = torch.arange(7 * 11.0)
    for legacy, rows in ((True, 53), (False, 77)):
        module = RelativePositionBias(1, 4, 6, legacy_stride=legacy)
        module.load_state_dict({"relative_position_bias_table": table[:, None]})
        assert module(4, 6).unique().numel() == rows


@each("legacy", [False, True])
def test_checkpoint_of_the_other_stride_is_an_error(legacy):
    state = RelativePositionBias(2, 3, 5, legacy_stride=not legacy, emit_index="square").state_dict()
    with pytest.raises(RuntimeError, match="relative_position_index is not what RelativePositionBias"):
        RelativePositionBias(2, 3, 5, legacy_stride=legacy).load_state_dict(state)


# Log-spaced coordinates


def exact_coordinates(window, divisors, mode):
    axes = [torch.arange(1 - size, size, dtype=torch.float64) for size in window]
    grid = torch.stack(torch.meshgrid(axes, indexing="ij"), -1).flatten(0, -2)
    if mode == "cr":
        return grid.sign() * (1 + grid.abs()).log()
    scaled = 8 * grid / torch.tensor([max(size - 1, 1) for size in divisors])
    return grid.sign() * (1 + scaled.abs()).log2() / 3


@WINDOWS
@each("mode", ["swin", "cr"])
@each("pretrained", [False, True])
def test_log_coordinates_follow_the_formula(window, mode, pretrained):
    divisors = [2 * size for size in window] if pretrained else window
    options = {"pretrained_window": divisors} if pretrained else {}
    module = LogCoordinatePositionBias(window, 3, 16, mode=mode, **options).double()
    first, _, last = module.cpb_mlp
    hidden = (exact_coordinates(window, divisors, mode) @ first.weight.T + first.bias).relu()
    table = hidden @ last.weight.T
    table = table + last.bias if mode == "cr" else 16 * table.sigmoid()
    expected = reference.window_bias(table, window)
    # Coordinates are float32 by design, a few roundings of values below 2; the MLP and 16 sigmoid grow that
    # by less than 16 times here.
    torch.testing.assert_close(module()[0], expected, rtol=0, atol=16 * 4 * 2**-23)


def test_axes_of_size_one_have_coordinate_zero():
    module = LogCoordinatePositionBias((1, 3), 2)
    assert module().isfinite().all()
    assert (module._computed()["relative_coords_table"][..., 0] == 0).all()


def test_zeros_as_pretrained_window_are_none():
    weights = LogCoordinatePositionBias((4, 3), 2).state_dict()
    results = []
    for pretrained in (None, (0, 0), (4, 3), (8, 8)):
        module = LogCoordinatePositionBias((4, 3), 2, pretrained_window=pretrained)
        module.load_state_dict(weights)
        results.append(module())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[3])


def test_prefix_tokens_have_bias_zero():
    plain, padded = (
        LogCoordinatePositionBias((4, 3), 2),
        LogCoordinatePositionBias((4, 3), 2, prefix_tokens=2),
    )
    padded.load_state_dict(plain.state_dict())
    bias = padded()
    assert bias.shape == (1, 2, 14, 14)
    assert torch.equal(bias[..., 2:, 2:], plain())
    assert not bias[..., :2, :].any()
    assert not bias[..., :2].any()


@each("name", ["cpb_mlp", "continuous_position_bias_mlp", "mlp", "meta_mlp"])
@each("other", ["cpb_mlp", "mlp"])
def test_mlp_is_loaded_under_every_name(name, other):
    source = LogCoordinatePositionBias((4, 3), 2, 8, mode="cr", mlp_name=name)
    target = LogCoordinatePositionBias((4, 3), 2, 8, mode="cr", mlp_name=other)
    state = source.state_dict()
    assert {key.split(".")[0] for key in state} == {name}
    assert len(state) == 4
    assert target.load_state_dict(state) == ([], [])
    assert torch.equal(target(), source())


def test_unknown_and_missing_keys_stay_errors():
    module = LogCoordinatePositionBias((4, 3), 2)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        module.load_state_dict({**module.state_dict(), "other": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Missing key.*cpb_mlp\.2\.weight"):
        module.load_state_dict({key: value for key, value in module.state_dict().items() if "2" not in key})


@each("dtype", [torch.float32, torch.bfloat16])
def test_coordinates_of_another_pretrained_window_are_an_error(dtype):
    def module(pretrained):
        return LogCoordinatePositionBias((4, 3), 2, pretrained_window=pretrained, emit_index="flat")

    state = module((8, 8)).state_dict()
    state["relative_coords_table"] = state["relative_coords_table"].to(dtype)
    module((8, 8)).load_state_dict(state)
    with pytest.raises(RuntimeError, match="relative_coords_table is not what LogCoordinatePositionBias"):
        module(None).load_state_dict(state)


def test_dropout_is_drawn_while_training():
    module = LogCoordinatePositionBias((4, 3), 2, dropout=0.5)
    kept = module.eval()()
    module.train()
    torch.manual_seed(1)
    first, second = module(), module()
    torch.manual_seed(1)
    assert torch.equal(module(), first)
    assert not torch.equal(first, second)
    assert not torch.equal(first, kept)
    assert torch.equal(module.eval()(), kept)


# T5


@each("bidirectional", [True, False])
@each("q_offset", [0, 3, 500])
def test_t5_follows_the_reference(bidirectional, q_offset):
    module = T5RelativePositionBias(3, 32, 128, bidirectional)
    expected = reference.t5_bias(
        module.relative_attention_bias.weight, 9, 600, q_offset=q_offset, bidirectional=bidirectional
    )
    assert same_bits(module(9, 600, q_offset)[0], expected)


def test_t5_step_by_step_is_the_full_bias():
    module = T5RelativePositionBias(3, bidirectional=False)
    full = module(40, 40)
    for step in range(40):
        assert same_bits(module(1, step + 1, step), full[:, :, step : step + 1, : step + 1])


def test_t5_weight_is_named_as_in_transformers():
    module = T5RelativePositionBias(3, 16)
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == {
        "relative_attention_bias.weight": (16, 3)
    }


# ALiBi


@each("num_heads", [1, 8, 12, 13])
@each("causal", [False, True])
@each("learnable", [False, True])
@each("dtype", [torch.float64, torch.float32])
def test_alibi_follows_the_definition(num_heads, causal, learnable, dtype):
    module = AlibiBias(num_heads, causal, learnable).to(dtype)
    slopes = module.slopes if learnable else reference.alibi_slopes(num_heads, dtype=dtype)
    expected = reference.alibi_bias(slopes, 4, 9, q_offset=5, causal=causal)
    bias = module(4, 9, 5, dtype)
    assert bias.shape == (1, num_heads, 4, 9)
    assert torch.equal(bias[0], expected)


@each("dtype", [torch.float16, torch.bfloat16])
def test_alibi_in_half_types_is_made_from_float32_slopes(dtype):
    module = AlibiBias(12)
    assert same_bits(module(3, 1000, 0, dtype), module(3, 1000).to(dtype))
    rounded = reference.alibi_bias(reference.alibi_slopes(12, dtype=dtype), 3, 1000)
    assert not torch.equal(module(3, 1000, 0, dtype)[0], rounded)


def test_alibi_has_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    assert AlibiBias(12)(2, 3).dtype is torch.float64
    assert same_bits(AlibiBias(12)(2, 3), AlibiBias(12)(2, 3, 0, torch.float64))


def test_alibi_is_converted_like_a_module_with_parameters():
    for convert in (torch.nn.Module.half, torch.nn.Module.bfloat16, torch.nn.Module.double):
        module, other = (convert(AlibiBias(12, learnable=learnable)) for learnable in (False, True))
        assert module(2, 3).dtype is other(2, 3).dtype
        assert same_bits(module(2, 3), AlibiBias(12)(2, 3, 0, other.slopes.dtype))
        assert copy.deepcopy(module)(2, 3).dtype is other.slopes.dtype
    assert module(2, 3, 0, torch.float32).dtype is torch.float32

    assert AlibiBias(12).to("meta")(2, 3).is_meta
    assert not AlibiBias(12).to("meta").to_empty(device="cpu")(2, 3).is_meta
    with torch.device("meta"):
        module = AlibiBias(12)
    assert same_bits(module(2, 3), AlibiBias(12)(2, 3))


def test_alibi_slopes_are_saved_only_as_a_parameter():
    assert AlibiBias(12).state_dict() == {}
    module = AlibiBias(12, learnable=True)
    assert list(module.state_dict()) == ["slopes"]
    assert same_bits(module.slopes, posenc_ext.alibi_slopes(12))


def test_alibi_slopes_learn():
    module = AlibiBias(3, learnable=True)
    (gradient,) = gradients(module, module(2, 3), torch.ones(1, 3, 2, 3))
    assert torch.equal(gradient, torch.full([3], -5.0))  # distances 0 1 2, 1 0 1


# Errors


@each(
    ("call", "message"),
    [
        (
            lambda: RelativePositionBias(2, 5, 4, legacy_stride=True),
            "RelativePositionBias: legacy_stride must be False for h > w, got 5, 4",
        ),
        (
            lambda: RelativePositionBias(2, 4, 4, emit_index="round"),
            'RelativePositionBias: emit_index must be None, "flat" or "square", got \'round\'',
        ),
        (
            lambda: WindowRelativePositionBias((4, 4), 2, emit_index=True),
            'WindowRelativePositionBias: emit_index must be None, "flat" or "square", got True',
        ),
        (
            lambda: WindowRelativePositionBias((4, 4), 2, 1, heads_first=True),
            "WindowRelativePositionBias: prefix_tokens must be 0 with heads_first, got 1",
        ),
        (
            lambda: WindowRelativePositionBias((4, 4), 2, 1, key_window=(6, 6)),
            "WindowRelativePositionBias: prefix_tokens must be 0 with key_window, got 1",
        ),
        (
            lambda: WindowRelativePositionBias((4, 4), 2, key_window=(6,)),
            "WindowRelativePositionBias: key_window must have 2 positive sizes, got [6]",
        ),
        (
            lambda: WindowRelativePositionBias((4, 4), 2, key_window=(6, 0)),
            "WindowRelativePositionBias: key_window must have 2 positive sizes, got [6, 0]",
        ),
        (
            lambda: WindowRelativePositionBias((4, 4), 2, key_window=(6, 6)).resampled((5, 5)),
            "WindowRelativePositionBias: key_window must be window to resample, got [6, 6]",
        ),
        (
            lambda: WindowRelativePositionBias((4, 4), 2, key_window=(6, 6))((3, 3)),
            "WindowRelativePositionBias: window must be None with key_window, got [3, 3]",
        ),
        (
            lambda: WindowRelativePositionBias((4, 3), 2)((3, 4)),
            "WindowRelativePositionBias: window must be within [4, 3], got [3, 4]",
        ),
        (
            lambda: WindowRelativePositionBias((4, 3), 2)((0, 3)),
            "WindowRelativePositionBias: window must be within [4, 3], got [0, 3]",
        ),
        (
            lambda: WindowRelativePositionBias((4, 3), 2)((4,)),
            "WindowRelativePositionBias: window must be within [4, 3], got [4]",
        ),
        (
            lambda: LogCoordinatePositionBias((4, 3), 2)((4,)),
            "LogCoordinatePositionBias: window must have 2 positive sizes, got [4]",
        ),
        (
            lambda: LogCoordinatePositionBias((4, 3), 2)((4, 0)),
            "LogCoordinatePositionBias: window must have 2 positive sizes, got [4, 0]",
        ),
        (
            lambda: LogCoordinatePositionBias((4, 0), 2),
            "LogCoordinatePositionBias: window sizes must be positive, got [4, 0]",
        ),
        (
            lambda: LogCoordinatePositionBias((4, 4), 0),
            "LogCoordinatePositionBias: num_heads must be positive, got 0",
        ),
        (
            lambda: LogCoordinatePositionBias((4, 4), 2, 0),
            "LogCoordinatePositionBias: hidden_features must be positive, got 0",
        ),
        (
            lambda: LogCoordinatePositionBias((4, 4), 2, pretrained_window=(8,)),
            "LogCoordinatePositionBias: pretrained_window must have 2 sizes >= 0, got [8]",
        ),
        (
            lambda: LogCoordinatePositionBias((4, 4), 2, pretrained_window=(8, -8)),
            "LogCoordinatePositionBias: pretrained_window must have 2 sizes >= 0, got [8, -8]",
        ),
        (
            lambda: LogCoordinatePositionBias((4, 4), 2, mode="rw"),
            'LogCoordinatePositionBias: mode must be "swin" or "cr", got \'rw\'',
        ),
        (
            lambda: LogCoordinatePositionBias((4, 4), 2, dropout=1.5),
            "LogCoordinatePositionBias: dropout must be in [0, 1], got 1.5",
        ),
        (
            lambda: LogCoordinatePositionBias((4, 4), 2, dropout=math.nan),
            "LogCoordinatePositionBias: dropout must be in [0, 1], got nan",
        ),
        (
            lambda: LogCoordinatePositionBias((4, 4), 2, prefix_tokens=-1),
            "LogCoordinatePositionBias: prefix_tokens must not be negative, got -1",
        ),
        (
            lambda: LogCoordinatePositionBias((4, 4), 2, mlp_name="fc"),
            "LogCoordinatePositionBias: mlp_name must be one of ['cpb_mlp', 'continuous_position_bias_mlp', "
            "'mlp', 'meta_mlp'], got 'fc'",
        ),
        (lambda: T5RelativePositionBias(0), "T5RelativePositionBias: num_heads must be positive, got 0"),
        (
            lambda: T5RelativePositionBias(2, 3),
            "T5RelativePositionBias: num_buckets must be at least 4, got 3",
        ),
        (
            lambda: T5RelativePositionBias(2, 1, bidirectional=False),
            "T5RelativePositionBias: num_buckets must be at least 2, got 1",
        ),
        (
            lambda: T5RelativePositionBias(2, 32, 8),
            "T5RelativePositionBias: max_distance must be above 8, got 8",
        ),
        (
            lambda: T5RelativePositionBias(2, 32, 16, bidirectional=False),
            "T5RelativePositionBias: max_distance must be above 16, got 16",
        ),
        (lambda: AlibiBias(0), "AlibiBias: num_heads must be positive, got 0"),
    ],
)
def test_value_errors(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@each(
    ("build", "arguments", "message"),
    [
        (lambda: T5RelativePositionBias(2), (-1, 3), "t5_bias: q_len must be non-negative, got -1"),
        (lambda: T5RelativePositionBias(2), (3, -1), "t5_bias: k_len must be non-negative, got -1"),
        (lambda: AlibiBias(2), (-1, 3), "alibi_bias: q_len must be non-negative, got -1"),
        (
            lambda: RelativePositionBias(2, 2, 4, legacy_stride=True),
            (1, 4),
            r"window_bias: query_size must be at least the window \[2, 4\], got \[1, 4\]",
        ),
    ],
)
def test_errors_of_the_ops(build, arguments, message):
    with pytest.raises(RuntimeError, match=f"posenc_ext::{message}"):
        build()(*arguments)


def test_smallest_t5_tables_are_accepted():
    """The constructor's least sizes are those of the op."""
    assert T5RelativePositionBias(2, 4, 2)(5, 5).shape == (1, 2, 5, 5)
    assert T5RelativePositionBias(2, 2, 2, bidirectional=False)(5, 5).shape == (1, 2, 5, 5)
