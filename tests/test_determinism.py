"""The same bits for every number of threads, every repeat and every CPU level."""

import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from op_types import DTYPES, values
from support import each, same_bits

import posenc_ext


@functools.cache
def numbers(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return values(shape, "cpu", torch.float64, seed)


def fixed(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return numbers(shape, seed).to(dtype)


def leaf(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return fixed(shape, dtype).clone().requires_grad_()


def large_results(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Forward and backward of every family, big enough that every thread has work; odd sizes leave tails."""
    results = {}
    positions = (fixed((4099,), torch.float64) * 4096).to(dtype).requires_grad_()
    y = posenc_ext.sinusoidal(positions, 254)
    results["sinusoidal"] = y
    (results["sinusoidal backward"],) = torch.autograd.grad(y, positions, fixed(y.shape, dtype, seed=3))
    for layout, odd, dim, start in (
        ("interleaved", "error", 254, 2**20),
        ("interleaved", "sin", 1025, -45),
        ("concat", "sin", 191, -(2**24)),
        ("concat_cos_first", "zero", 321, 2**24 - 100),
        ("concat", "error", 512, 7),
    ):
        table = posenc_ext.sinusoidal_table(4099, dim, start=start, layout=layout, odd=odd, dtype=dtype)
        results[f"table {layout} {odd} {dim}"] = table
    timesteps = torch.randint(-50, 1100, (4099,), generator=torch.Generator().manual_seed(6))
    results["timesteps"] = posenc_ext.sinusoidal(timesteps, 254, layout="concat", dtype=dtype)
    x = leaf((3, 1021, 254), dtype)
    for name, options in {
        "add": {},
        "add sequence first": {"batch_first": False},
        "add offsets": {"start": torch.tensor([5, 900, 77])},
        "add dropout": {"dropout_p": 0.3, "training": True},
    }.items():
        torch.manual_seed(5)
        y = posenc_ext.add_sinusoidal(x, x_scale=1.7, **options)
        results[name] = y
        (results[f"{name} backward"],) = torch.autograd.grad(y, x, fixed(y.shape, dtype, seed=1))
    lines = leaf((6, 515, 256), dtype)  # rows of whole cache lines; six samples are four at a time, and two
    for name, options in {
        "lines": {},
        "lines sequence first": {"batch_first": False},
        "lines dropout": {"dropout_p": 0.3, "training": True},
        "lines sequence first dropout": {"batch_first": False, "dropout_p": 0.3, "training": True},
    }.items():
        torch.manual_seed(5)
        y = posenc_ext.add_sinusoidal(lines, x_scale=1.7, **options)
        results[name] = y
        (results[f"{name} backward"],) = torch.autograd.grad(y, lines, fixed(y.shape, dtype, seed=1))
        torch.manual_seed(5)
        rows = leaf((lines.shape[0 if name.count("sequence") else 1] + 1, 256), dtype)
        first = fixed((1, 1, 256), dtype)
        results[f"embed {name}"] = posenc_ext.add_position_embedding(lines, rows, [first], **options)
    cls, registers = leaf((1, 1, 254), dtype), fixed((3, 4, 254), dtype, seed=4).clone().requires_grad_()
    pos_embed = leaf((1026, 254), dtype)
    image = leaf((37, 62, 25, 41), dtype)
    for name, tokens, prefixes, options in (
        ("embed", x, [cls, registers], {}),
        ("embed sequence first", x, [cls.expand(1, 1021, 254)], {"batch_first": False}),
        ("embed dropout", x, [cls, registers], {"dropout_p": 0.3, "training": True, "x_scale": 1.7}),
        ("embed image", image.flatten(2).transpose(1, 2), [cls[..., :62]], {}),
    ):
        torch.manual_seed(5)
        length = sum(t.shape[0 if "batch_first" in options else 1] for t in (tokens, *prefixes))
        y = posenc_ext.add_position_embedding(
            tokens, pos_embed[:length, : tokens.shape[2]], prefixes, **options
        )
        results[name] = y
        gradients = torch.autograd.grad(y, [tokens, pos_embed, *prefixes], fixed(y.shape, dtype, seed=1))
        results |= {f"{name} backward {i}": gradient for i, gradient in enumerate(gradients)}
    for name, rows, dim in (("positions", 1026, 254), ("positions few rows", 3, 2049)):
        y_x, table = leaf((3, 331, dim), dtype), leaf((rows, dim), dtype)
        at = torch.randint(rows, (3, 331), generator=torch.Generator().manual_seed(7))
        torch.manual_seed(5)
        y = posenc_ext.add_position_embedding(y_x, table, positions=at, dropout_p=0.3, training=True)
        results[name] = y
        results[f"add {name}"] = posenc_ext.add_sinusoidal(y_x, positions=at, odd="sin")
        gradients = torch.autograd.grad(y, [y_x, table], fixed(y.shape, dtype, seed=1))
        results |= {f"{name} backward {i}": gradient for i, gradient in enumerate(gradients)}
    for name, window, options in (
        ("bias", [24, 23], {}),
        ("bias prefix", [17, 16], {"prefix_tokens": 1}),
        ("bias small", [7, 7], {}),
        ("bias small prefix", [3, 5, 8], {"prefix_tokens": 1}),
        ("bias 1d", [1027], {}),
        ("bias 3d", [5, 9, 11], {}),
        ("bias query", [12, 13], {"query_size": [31, 26]}),
        ("bias query prefix", [9, 17], {"query_size": [30, 99], "prefix_tokens": 1}),
    ):
        rows = 3 * options.get("prefix_tokens", 0) + torch.Size(2 * s - 1 for s in window).numel()
        table = leaf((rows, 5), dtype)
        y = posenc_ext.window_bias(table, window, **options)
        results[name] = y
        (results[f"{name} backward"],) = torch.autograd.grad(y, table, fixed(y.shape, dtype, seed=2))
    table = leaf((172, 5), dtype)
    y = posenc_ext.window_bias(table, [7, 7], prefix_tokens=1)
    apart = {
        "rows": fixed((5, 50, 53), dtype, seed=2)[..., 1:51],
        "keys": fixed((5, 50, 100), dtype, seed=3)[..., ::2],
    }
    for name, grad in apart.items():
        (results[f"bias small backward, {name} apart"],) = torch.autograd.grad(
            y, table, grad, retain_graph=True
        )
    few, table, many = leaf((11, 5), dtype), leaf((32, 5), dtype), leaf((64, 5), dtype)
    index = torch.randint(0, 32, (3, 301, 299), generator=torch.Generator().manual_seed(4))
    slopes = leaf((5,), dtype)
    for name, argument, y in (
        ("t5", table, posenc_ext.t5_bias(table, 501, 777, q_offset=100)),
        ("t5 causal", table, posenc_ext.t5_bias(table, 700, 700, bidirectional=False)),
        ("gather", table, posenc_ext.gather_bias(table, index)),
        ("gather int32", table, posenc_ext.gather_bias(table, index.to(torch.int32))),
        ("gather 11", few, posenc_ext.gather_bias(few, index % 11)),
        ("gather 64", many, posenc_ext.gather_bias(many, index * 2 + 1)),
        ("alibi", slopes, posenc_ext.alibi_bias(slopes, 501, 777, q_offset=100)),
    ):
        results[name] = y
        (results[f"{name} backward"],) = torch.autograd.grad(y, argument, fixed(y.shape, dtype, seed=2))
    results |= softmax_results(dtype)
    # Far from the query products are rounded, which sums that cancel show.
    half = fixed((5, 70, 32), dtype, seed=2)
    results["alibi far backward"] = torch.ops.posenc_ext._alibi_bias_backward(
        torch.cat([half, -half], 2), q_offset=2**50, causal=False
    )
    results["slopes"] = posenc_ext.alibi_slopes(112, dtype=dtype)
    return {name: tensor.detach() for name, tensor in results.items()}


def softmax_results(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Softmax with a bias, and its gradients, in several blocks of a head; and attention in several tiles."""
    ops, results = torch.ops.posenc_ext, {}
    index = torch.randint(0, 60, (149, 131), generator=torch.Generator().manual_seed(9))
    masked = {"mask": fixed((16, 1, 149, 131), dtype, seed=5)}
    swin = {"window": [7, 7], "regions": (numbers((8, 49), seed=8) > 0).to(torch.int32)}
    prefix, query = {"window": [12, 12], "prefix_tokens": 1}, {"window": [6, 7], "query_size": [12, 14]}
    causal = {"causal": True, "q_offset": 5}
    for name, op, (batch, queries, keys), shape, arguments in (
        ("window", ops.window_bias_softmax, (96, 49, 49), (169, 3), swin),
        ("window large", ops.window_bias_softmax, (4, 196, 196), (729, 3), {"window": [14, 14]}),
        ("window prefix", ops.window_bias_softmax, (5, 145, 145), (532, 3), prefix),
        ("window query", ops.window_bias_softmax, (5, 168, 42), (143, 3), query),
        ("diagonal", ops.diagonal_bias_softmax, (16, 149, 131), (3, 279), masked),
        ("gather", ops.gather_bias_softmax, (16, 149, 131), (60, 3), {"index": index}),
        ("pairs", ops.bias_softmax, (16, 149, 131), (3, 149, 131), masked),
        ("t5", ops.t5_bias_softmax, (2, 401, 377), (32, 3), causal),
        ("alibi", ops.alibi_bias_softmax, (2, 401, 377), (3,), causal),
    ):
        scores, table = leaf((batch, 3, queries, keys), dtype), leaf(shape, dtype)
        y = op(scores, table, scale=0.7, **arguments)
        results[f"{name} softmax"] = y
        grad = fixed(y.shape, dtype, seed=2)
        gradients = torch.autograd.grad(y, [scores, table], grad)
        gradients += torch.autograd.grad(op(scores, table.detach(), scale=0.7, **arguments), scores, grad)
        if "mask" in arguments:
            mask = arguments["mask"].clone().requires_grad_()
            gradients += torch.autograd.grad(
                op(scores, table, scale=0.7, mask=mask), [scores, table, mask], grad
            )
        results |= {f"{name} softmax backward {i}": gradient for i, gradient in enumerate(gradients)}
    q = fixed((20, 5, 196, 16), dtype, seed=4)
    results["attention"] = ops.window_attention(q, q, q, fixed((729, 5), dtype), [14, 14])
    return results


def digest(dtype: torch.dtype) -> dict[str, str]:
    """A hash of the bits of each result."""
    return {
        name: hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in large_results(dtype).items()
    }


@each("dtype", DTYPES)
def test_threads_and_repeats(dtype):
    torch.set_num_threads(1)
    expected = large_results(dtype)
    for threads in (2, 3, 8, 8):
        torch.set_num_threads(threads)
        actual = large_results(dtype)
        different = [name for name, tensor in expected.items() if not same_bits(tensor, actual[name])]
        assert not different, f"{threads} threads"


def test_deterministic_mode_is_content():
    """No op raises or warns under torch.use_deterministic_algorithms."""
    torch.use_deterministic_algorithms(True)
    try:
        large_results(torch.float32)
    finally:
        torch.use_deterministic_algorithms(False)


def levels() -> list[str]:
    """The CPU levels of this machine."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    has_avx2 = {"avx2", "fma"} <= set(flags.split())
    has_avx512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags.split())
    return ["baseline", *["avx2"] * has_avx2, *["avx512"] * has_avx512]


def under(program: str, **settings: str) -> subprocess.CompletedProcess:
    """Runs a program in a process with these environment variables."""
    folders = [Path(__file__).parent, Path(posenc_ext.__file__).parents[1], os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(map(str, folders))
    environment = {**os.environ, **settings, "PYTHONPATH": path}
    # From this folder: python -c imports from its own first, and the root may hold a build for another torch.
    command, here = [sys.executable, "-c", program], Path(__file__).parent
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)


@functools.cache
def digests(level: str, **settings: str) -> dict[str, dict[str, str]]:
    """By dtype, in a process of its own at this level."""
    program = (
        "import json, test_determinism as t, posenc_ext._C as c; "
        "print(json.dumps([c.cpu_level(), {str(d): t.digest(d) for d in t.DTYPES}]))"
    )
    used, found = json.loads(under(program, POSENC_CPU_ISA=level, **settings).stdout.splitlines()[-1])
    assert used == level
    return found


def assert_bits_of_baseline(level: str, **settings: str) -> None:
    actual = digests(level, **settings)
    for dtype, expected in digests("baseline").items():
        different = [name for name, value in expected.items() if actual[dtype][name] != value]
        assert not different, f"{level} {dtype} {settings}"


@each("level", levels()[1:])
def test_cpu_levels_agree(level):
    """Every level that this machine has gives the bits of the baseline."""
    assert_bits_of_baseline(level)


@each("level", levels())
def test_stores_past_the_caches_and_threads_for_little_work_change_nothing(level):
    assert_bits_of_baseline(level, POSENC_NT="1", POSENC_GRAIN_KIB="1")


def test_unknown_cpu_level_is_said():
    best = levels()[-1]
    done = under("import posenc_ext; print(posenc_ext._C.cpu_level())", POSENC_CPU_ISA="avx")
    assert done.stdout.split() == [best]
    said = f"POSENC_CPU_ISA must be a level of this machine, baseline to {best}, got avx: using {best}"
    assert f"posenc_ext: {said}\n" in done.stderr
