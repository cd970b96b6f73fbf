"""Correct rounding of sinusoids at any position, and the precision of bias gradients."""

import math
from fractions import Fraction

import exact
import mpmath
import numpy as np
import torch
from exact import HALVES_AND_FLOAT32, SPECS
from op_types import DTYPES
from support import each, same_bits, seed

import posenc_ext
from posenc_ext import reference


@each("dtype", HALVES_AND_FLOAT32)
@each("name", SPECS)
def test_sinusoids_are_correctly_rounded(name, dtype):
    positions, columns, turns, cosine = exact.sampled(20_000, SPECS[name], seed=1)
    actual = exact.encoded(positions, columns, SPECS[name], dtype)
    largest, wrong = exact.misrounded(actual, turns, cosine, dtype)
    assert wrong == 0
    assert largest <= 0.5 + 1e-6


@each("name", SPECS)
def test_float64_is_within_an_ulp(name):
    positions, columns, turns, cosine = exact.sampled(2_000, SPECS[name], seed=2)
    actual = exact.encoded(positions, columns, SPECS[name], torch.float64)
    assert exact.ulp_errors_float64(actual, turns, cosine).max() <= 1


@each("dtype", HALVES_AND_FLOAT32)
@each("name", SPECS)
def test_positions_near_zero_are_correctly_rounded(name, dtype):
    """Whole positions below 1024, as diffusion timesteps are: their angles are added to kept ones."""
    spec = SPECS[name]
    generator = torch.Generator().manual_seed(4)
    positions = torch.randint(1024, (20_000,), generator=generator)
    pair = torch.randint(spec["dim"] // 2, (20_000,), generator=generator)
    cosine = torch.randint(2, (20_000,), generator=generator)
    numbers = {key: value for key, value in spec.items() if key not in ("dim", "layout")}
    frequency = exact.frequencies(spec["dim"], **numbers)
    columns = exact.channel(spec["dim"], spec.get("layout", "interleaved"), pair, cosine)
    turns = [exact.phase(p, frequency[j]) for p, j in zip(positions.tolist(), pair.tolist(), strict=True)]
    actual = exact.encoded(positions, columns, spec, dtype)
    largest, wrong = exact.misrounded(actual, turns, [bool(c) for c in cosine.tolist()], dtype)
    assert wrong == 0
    assert largest <= 0.5 + 1e-6


@each("position", [1, -3, 12_345, 2**20, 2**24, 2.0**-20, 0.3])
def test_rising_frequencies_at_any_angle(position):
    """With a base below 1 the last frequency is the largest: angles are beyond every fast reduction there."""
    dim, base = 32, 1e-13
    with mpmath.workprec(400):
        ratio = mpmath.mpf(base) ** (-mpmath.mpf(1) / (dim // 2))
        angles = [mpmath.mpf(position) * ratio**j for j in range(dim // 2)]
        expected = [float(f(angle)) for angle in angles for f in (mpmath.sin, mpmath.cos)]
    p = torch.tensor([position], dtype=torch.float64)
    frequency_error = 2.0**-96 * float(abs(angles[-1]))
    for dtype, unit in ((torch.float64, 2.0**-51), (torch.float32, 2.0**-24)):
        actual = posenc_ext.sinusoidal(p, dim, base=base, dtype=dtype)[0].to(torch.float64)
        assert (actual - torch.tensor(expected, dtype=torch.float64)).abs().max() <= unit + frequency_error


@each("source", [torch.float32, torch.bfloat16, torch.float16])
def test_fractional_positions_are_read_exactly(source):
    """Diffusion timesteps in a half type: the encoding is that of the number which the half type holds."""
    spec = SPECS["diffusion"]
    generator = torch.Generator().manual_seed(3)
    positions = (torch.rand(3_000, generator=generator) * 1000 - 200).to(source)
    columns = torch.randint(spec["dim"], (3_000,), generator=generator)
    frequency = exact.frequencies(spec["dim"], freq_shift=1.0, scale=1000.0)
    half = spec["dim"] // 2
    turns = [
        exact.phase(p, frequency[c % half]) for p, c in zip(positions.tolist(), columns.tolist(), strict=True)
    ]
    cosine = [c < half for c in columns.tolist()]
    for dtype in HALVES_AND_FLOAT32:
        _, wrong = exact.misrounded(exact.encoded(positions, columns, spec, dtype), turns, cosine, dtype)
        assert wrong == 0, dtype


def table_errors(length: int, start: int, spec: dict, dtype: torch.dtype) -> tuple[float, int]:
    """(largest error in ulp, number of values not correctly rounded) of a whole table."""
    dim, layout = spec["dim"], spec.get("layout", "interleaved")
    numbers = {name: value for name, value in spec.items() if name not in ("dim", "layout")}
    frequency = exact.frequencies(dim, **numbers)
    pair = torch.arange(dim // 2).repeat_interleave(2)
    cosine = torch.arange(dim) % 2
    columns = exact.channel(dim, layout, pair, cosine)
    table = posenc_ext.sinusoidal_table(length, start=start, **spec, dtype=dtype)[:, columns]
    turns = [exact.phase(p, frequency[j]) for p in range(start, start + length) for j in pair.tolist()]
    actual = table.to(torch.float64).flatten().numpy()
    return exact.misrounded(actual, turns, [bool(c) for c in cosine.tolist()] * length, dtype)


# Short tables are made row by row, longer ones by angle addition.
@each("length", [41, 97])
@each("dtype", HALVES_AND_FLOAT32)
@each("start", [0, 4096, -45, 2**24 - 40])
def test_tables_are_correctly_rounded(start, dtype, length):
    assert table_errors(length, start, {"dim": 258}, dtype)[1] == 0


@each("name", SPECS)
@each("dtype", HALVES_AND_FLOAT32)
def test_tables_of_all_conventions_are_correctly_rounded(name, dtype):
    assert table_errors(70, 2**20 - 7, SPECS[name], dtype)[1] == 0


@each("numerator", [1, 3, 355 / 113 * 2])
@each("offset", [0.0, 1e-9, -3e-7, 2e-5])
def test_table_values_near_zero(numerator, offset):
    """Scales of nearly a quarter turn a position: in every row one of the two values is tiny."""
    spec = {"dim": 2, "scale": math.pi / 2 * numerator + offset}
    for start in (-50, 0, 2**24 - 300):
        largest, wrong = table_errors(400, start, spec, torch.float32)
        assert largest <= 0.501
        assert wrong == 0


def encodings(start: int, length: int, dim: int) -> np.ndarray:
    frequency = exact.frequencies(dim)
    turns = [exact.phase(p, frequency[c // 2]) for p in range(start, start + length) for c in range(dim)]
    return exact.sines(turns, [c % 2 == 1 for _ in range(length) for c in range(dim)]).reshape(length, dim)


@each("start", [0, 2**24 - 40])
def test_sums_are_rounded_once(start):
    """x * x_scale + encoding in float64, then one rounding; float64's own error may decide a tie."""
    batch, length, dim, x_scale, dtype = 3, 40, 128, 128**0.5, torch.float32
    encoding = encodings(start, length, dim)
    x = torch.randn(batch, length, dim)
    scaled = x.to(torch.float64).numpy() * x_scale
    doubt = 2.0**-50 * (np.abs(scaled) + np.abs(encoding))
    below, above = (exact.rounded(scaled + encoding + side * doubt, dtype) for side in (-1, 1))
    assert np.mean(below != above) < 1e-4
    actual = posenc_ext.add_sinusoidal(x, start=start, x_scale=x_scale).to(torch.float64).numpy()
    assert np.all((actual == below) | (actual == above))


def half_sum_errors(
    actual: torch.Tensor, x: torch.Tensor, x_scale: float, addend: np.ndarray, kept: float = 1.0
) -> np.ndarray:
    """Errors of sums of a half type where they are finite, in units of the bound of core/sums.h."""
    with np.errstate(all="ignore"):
        scaled = x.to(torch.float64).numpy() * x_scale
        value = (scaled + addend) * kept
        result = actual.to(torch.float64).numpy()
        fine = np.isfinite(value) & (np.abs(value) < torch.finfo(x.dtype).max)
        unit = exact.ulp(np.where(fine, value, 1.0), x.dtype)
        bound = 0.501 * unit + 2.0**-24 * (np.abs(scaled) + np.abs(addend)) * kept + 2.0**-149 * kept
        return (np.abs(result - value) / bound)[fine]


@each("p", [0.0, 0.1, 0.97])
@each("dtype", [torch.float16, torch.bfloat16])
@each("start", [0, 2**24 - 40])
def test_half_sums_are_within_their_bound(start, dtype, p):
    """Sums of every size: x * x_scale far below the encodings, far beyond them, and about -1 times them."""
    length, dim = 40, 128
    encoding = encodings(start, length, dim)
    generator = torch.Generator().manual_seed(5)
    sizes = 2.0 ** torch.arange(-12.0, 13.0)[:, None, None]
    x = torch.randn(len(sizes), length, dim, generator=generator) * sizes
    x = torch.cat([x, -torch.from_numpy(encoding)[None].expand(8, -1, -1)]).to(dtype)
    for x_scale in (1.0, 1 / 3, 128**0.5, 1 + 2.0**-9 + 2.0**-40, -(2.0**-30), 0.0):
        seed = torch.tensor([1])
        actual = torch.ops.posenc_ext._add_sinusoidal(
            x, None, start, x_scale, 10000.0, 0.0, "interleaved", "error", True, p, seed
        )
        kept = reference.dropout_mask(x.shape, p, seed)
        addend = np.broadcast_to(encoding, x.shape)[kept.numpy()]
        errors = half_sum_errors(actual[kept], x[kept], x_scale, addend, 1 / (1 - p))
        assert errors.max() <= 1, x_scale


@each("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_not_rounded_by_way_of_float32(dtype):
    """Values that float32 rounds to a tie, from where a second rounding may go to the wrong side."""
    positions = torch.arange(2**20)
    exact_value = positions.to(torch.float64).sin()
    twice, once = exact_value.to(dtype), reference.round_once(exact_value, dtype)
    chosen = twice != once
    assert chosen.sum() > 5
    assert torch.equal(posenc_ext.sinusoidal(positions[chosen], 2, dtype=dtype)[:, 0], once[chosen])

    step = torch.finfo(dtype).eps / 2
    x_scale = 1 + step + 2.0**-40  # above a tie between 1 and 1 + 2 step, by less than float32 can tell
    positions = torch.zeros(1, dtype=dtype, requires_grad=True)
    sine = posenc_ext.sinusoidal(positions, 2, scale=x_scale)[0, 0]
    for create_graph in (False, True):
        (gradient,) = torch.autograd.grad(sine, positions, create_graph=create_graph, retain_graph=True)
        assert gradient.item() == 1 + 2 * step


@each("dtype", [torch.float16, torch.bfloat16])
def test_small_values_are_rounded_once(dtype):
    """Sines below 2^-14, subnormal in float16: in rows and tables, some half a million of each."""
    options = {"dim": 256, "base": 2.0}
    for start, length, scale in [(32768, 4096, 1e-9), (0, 1024, 4e-8)]:
        table = posenc_ext.sinusoidal_table(length, start=start, scale=scale, dtype=dtype, **options)
        rows = posenc_ext.sinusoidal(torch.arange(start, start + length), scale=scale, dtype=dtype, **options)
        exact_value = posenc_ext.sinusoidal_table(
            length, start=start, scale=scale, dtype=torch.float64, **options
        )
        once = reference.round_once(exact_value, dtype)
        for actual in (table, rows):
            assert same_bits(actual, once), (start, int((actual != once).sum()))


def strided(x: torch.Tensor) -> torch.Tensor:
    """The same values with their channels apart: kernels load them one by one."""
    return torch.stack([x, x], -1)[..., 0]


def same_as_strided(x: torch.Tensor, **options) -> bool:
    results = []
    for form in (x, strided(x)):
        seed(1)
        results.append(posenc_ext.add_sinusoidal(form, **options))
    return same_bits(*results)


@each("p", [0.0, 0.9])
@each("dtype", [torch.float16, torch.bfloat16])
def test_every_half_is_scaled_within_the_bound(dtype, p):
    """Rows and single elements alike; scales that float32 does not hold are applied in float64."""
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    seed, step = torch.tensor([1]), torch.finfo(dtype).eps / 2
    kept = reference.dropout_mask(x.shape, p, seed)
    near_ties = [(1 + odd * step) * (1 + side * 2.0**-30) for odd in (1, 3, 63) for side in (-1, 1)]
    random = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()
    for scale in [*near_ties, *random, 0.0, -3.0, 2.0**-8, 1 / 3, 2.0**-50, 2.0**50]:
        results = [torch.ops.posenc_ext._scale_dropout(form, scale, p, seed) for form in (x, strided(x))]
        assert same_bits(*results), scale
        errors = half_sum_errors(results[0][kept], x[kept], scale, np.zeros(()), 1 / (1 - p))
        assert errors.max(initial=0) <= 1, scale
    for scale in (2.0**-70, 2.0**-134 / 3, 2.0**-134 / 37, 2.0**70, -1e300, 1e-300):
        product = x.double() * scale
        result = torch.ops.posenc_ext._scale_dropout(x, scale, p, seed)
        assert_rounded_once(result, (product * (1 / (1 - p))).where(kept, 0.0), scale)
        sums = posenc_ext.add_sinusoidal(x.view(-1, 1, 64), x_scale=scale).view(-1)
        assert_rounded_once(sums, product + torch.arange(len(x)) % 2, scale)


def assert_rounded_once(result: torch.Tensor, exact_value: torch.Tensor, scale: float) -> None:
    """Where float32 is normal, and the oracle rounds once: it does up to 1e30."""
    expected = reference.round_once(exact_value, result.dtype)
    size = exact_value.abs()
    normal = ((size >= 2.0**-126) & (size < 1e30)) | (size == 0)
    assert torch.equal(result[normal], expected[normal]), scale


@each(("dtype", "nans"), [(torch.float16, {0x7E00, -0x200}), (torch.bfloat16, {0x7FC0})])
def test_no_payload_of_a_nan_is_retained(dtype, nans):
    """So that a NaN has the same bits at every CPU level and in any order of a sum."""
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    x = bits.view(dtype).reshape(1, 64, 1024)
    for operand in (x, x[..., 2:]):  # whole vectors, and a part of one
        y = posenc_ext.add_sinusoidal(operand)
        assert torch.equal(y.isnan(), operand.isnan())
        assert set(y[y.isnan()].view(torch.int16).tolist()) == nans


@each("batch_first", [True, False])
@each("p", [0.0, 0.1])
@each("dtype", [torch.float64, *HALVES_AND_FLOAT32])
def test_rows_of_lines_are_those_of_single_elements(dtype, p, batch_first):
    x = torch.randn(7, 300, 512).to(dtype)
    assert same_as_strided(x, x_scale=512**0.5, batch_first=batch_first, dropout_p=p, training=True)


def test_rows_past_the_caches_are_the_same():
    """A warm result that is larger than the caches of most machines, and its samples one by one."""
    x = torch.randn(9, 1030, 1024)
    out = torch.ops.posenc_ext.add_sinusoidal.out(x, x_scale=3.0, out=torch.ones_like(x))
    assert same_bits(out, torch.cat([posenc_ext.add_sinusoidal(part, x_scale=3.0) for part in x.split(1)]))


@each(("dim", "odd"), [(64, "error"), (65, "zero"), (65, "sin")])
@each("layout", ["interleaved", "concat", "concat_cos_first"])
def test_kept_encodings_are_those_of_sinusoidal(layout, dim, odd):
    """The first 65536 / dim positions are kept: those on both sides of that end, and negative ones."""
    options = {"layout": layout, "odd": odd}
    zeros = torch.zeros(2, 1100, dim, dtype=torch.float64)
    positions = torch.arange(1100)
    for start in (0, 1, -5, 900, torch.tensor([0, 300])):
        first = start.view(2, 1) if isinstance(start, torch.Tensor) else torch.tensor([[start], [start]])
        expected = posenc_ext.sinusoidal(first + positions, dim, dtype=torch.float64, **options)
        assert torch.equal(posenc_ext.add_sinusoidal(zeros, start, **options), expected)


def test_the_oracle_against_mpmath():
    """Its fast path, its rounding and its phases, on values that mpmath gives directly."""
    frequency = exact.frequencies(6, base=100.0, scale=2.0)
    positions = [0, 1, -3, 0.1, 12345.678, 2**24, 2.0**-20]
    for j, turn_rate in enumerate(frequency):
        for p in positions:
            for cosine in (False, True):
                with mpmath.workprec(300):
                    angle = 2 * mpmath.mpf(p) * mpmath.mpf(100) ** (-mpmath.mpf(j) / 3)
                    true = mpmath.cos(angle) if cosine else mpmath.sin(angle)
                turns = exact.phase(p, turn_rate)
                fast = exact.sines([turns], [cosine])[0]
                assert abs(fast - true) <= exact.FLOAT64_SINE_ERROR * abs(true)
                precise = exact.exact_sine(turns, cosine)
                assert abs(float(precise) - float(true)) <= 2.0**-53 * abs(float(true))


@each("dtype", DTYPES)
def test_the_rounding_of_the_oracles(dtype):
    """Both oracles round once, to even: ties, and values within 2^-40 of a tie."""
    digits = exact.FORMATS[dtype][0]
    unit = 2.0 ** (1 - digits)
    if dtype is torch.float64:
        values, expected = [1.0, 1 + unit], [1.0, 1 + unit]
    else:
        values = [
            1 + unit / 2,
            1 + 1.5 * unit,
            1 + unit / 2 + 2.0**-40,
            1 + 1.5 * unit - 2.0**-40,
            -1 - unit / 2,
        ]
        expected = [1.0, 1 + 2 * unit, 1 + unit, 1 + unit, -1.0]
    assert exact.rounded(np.array(values), dtype).tolist() == expected
    assert [exact.rounded_fraction(Fraction(v), dtype) for v in values] == expected
    rounded = reference.round_once(torch.tensor(values, dtype=torch.float64), dtype)
    assert rounded.to(torch.float64).tolist() == expected


def relative_error(
    table: torch.Tensor, forward, upstream: torch.Tensor, exact_gradient: torch.Tensor
) -> float:
    """Of the gradient of a table, at its worst row."""
    leaf = torch.zeros_like(table, requires_grad=True)
    forward(leaf).backward(upstream)
    return ((leaf.grad.to(torch.float64) - exact_gradient) / exact_gradient).abs().max().item()


def test_bfloat16_window_gradient(capsys):
    """Sums of up to 1024 positive numbers are right to one bfloat16 rounding; sums in bfloat16 are not."""
    window, heads = [32, 32], 16
    upstream = torch.rand(heads, 1024, 1024).to(torch.bfloat16)
    index = reference.window_index(window).flatten()
    table = torch.zeros(63 * 63, heads, dtype=torch.bfloat16)
    exact_gradient = table.to(torch.float64).index_add(0, index, upstream.to(torch.float64).flatten(1).T)
    ours = relative_error(table, lambda t: posenc_ext.window_bias(t, window), upstream, exact_gradient)
    eager = relative_error(
        table, lambda t: t[index].view(1024, 1024, heads).permute(2, 0, 1), upstream, exact_gradient
    )
    with capsys.disabled():
        print(f"\nbfloat16 window_bias gradient, {heads} heads: relative error {ours:.2e}, eager {eager:.2e}")
    assert ours <= 2.0**-8


def test_bfloat16_gather_gradient(capsys):
    """The same for an index, of 8192 pairs a row on average."""
    heads, length, buckets = 12, 512, 32
    upstream = torch.rand(heads, length, length).to(torch.bfloat16)
    index = torch.randint(0, buckets, (length, length))
    table = torch.zeros(buckets, heads, dtype=torch.bfloat16)
    exact_gradient = table.to(torch.float64).index_add(
        0, index.flatten(), upstream.to(torch.float64).flatten(1).T
    )
    ours = relative_error(table, lambda t: posenc_ext.gather_bias(t, index), upstream, exact_gradient)
    eager = relative_error(table, lambda t: t[index].permute(2, 0, 1), upstream, exact_gradient)
    with capsys.disabled():
        sizes = f"{heads} heads, L = {length}, {buckets} buckets"
        print(f"\nbfloat16 gather_bias gradient, {sizes}: relative error {ours:.2e}, eager {eager:.2e}")
    assert ours <= 2.0**-8


def test_t5_buckets_over_many_configurations(capsys):
    """Every bucket of 2,000 and more configurations, by the float32 formula of the source."""
    configurations = distances = 0
    for rows in (*range(2, 66), 100, 127, 128, 256, 333, 512, 1000, 2048):
        for max_distance in (7, 16, 20, 64, 100, 127, 128, 129, 200, 256, 500, 800, 1024, 2000, 4096, 10000):
            for bidirectional in (False, True):
                buckets = rows // 2 if bidirectional else rows
                if buckets < 2 or max_distance <= buckets // 2:
                    continue
                far = min(2 * max_distance, 5000)
                rel = torch.arange(-far, far + 1)
                table = torch.arange(rows, dtype=torch.float64)[:, None]
                row = posenc_ext.t5_bias(table, 1, 2 * far + 1, far, bidirectional, max_distance)[0, 0]
                expected = reference.t5_bucket(rel, rows, bidirectional, max_distance)
                assert torch.equal(row.to(torch.int64), expected), (rows, max_distance, bidirectional)
                configurations += 1
                distances += rel.numel()
    with capsys.disabled():
        print(f"\nt5_bias: {configurations:,} configurations, {distances:,} distances, all equal")
    assert configurations > 1500
    assert distances > 5_000_000


@each("batch_first", [True, False], ids=["batch-first", "length-first"])
@each("dtype", [torch.float16, torch.bfloat16])
def test_sums_in_place(dtype, batch_first):
    x = torch.randn(40, 40, 512, generator=torch.Generator().manual_seed(8)).to(dtype)
    options = {"x_scale": 512**0.5, "batch_first": batch_first}
    expected = posenc_ext.add_sinusoidal(x, **options)
    assert same_bits(torch.ops.posenc_ext.add_sinusoidal.out(x, **options, out=x), expected)
