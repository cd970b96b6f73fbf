"""The day there is a GPU: every op of tests/op_db.py on CUDA. make gpu-test, or python bench/gpu_test.py

Values of every dtype, stride and offset, more than 2^31 elements, other streams and devices, CUDA graphs,
repeatability, gradients, opcheck, torch.compile; then compute-sanitizer where it is installed, and the test
suite's cases on CUDA. Without a GPU it says so and ends. --device cpu runs what needs none, to test this
script.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from op_db import OPS  # noqa: E402
from op_types import DTYPES, Op, Sample  # noqa: E402
from support import (  # noqa: E402
    check_against_reference,
    differentiable,
    function_of,
    leaves,
    requiring_gradients,
    same_bits,
)

import posenc_ext  # noqa: E402

# Of compute-sanitizer: every sample under the one that looks for wild accesses, few under the slow ones.
SANITIZERS = {
    "memcheck": "values",
    "racecheck": "few_values",
    "initcheck": "few_values",
    "synccheck": "few_values",
}
Failures = Iterator[str]
CHECKS: dict[str, Callable[[str], Failures]] = {}


class NotHere(Exception):
    """Why a check cannot be made on this device."""


def check(function: Callable[[str], Failures]) -> Callable[[str], Failures]:
    CHECKS[function.__name__] = function
    return function


def samples(device: str, dtypes=DTYPES, costly: bool = False) -> Iterator[tuple[Op, Sample, str]]:
    for op in OPS:
        for dtype in dtypes:
            for sample in op.samples(device, dtype):
                if not costly or sample.name in op.costly:
                    yield op, sample, f"{op.name} {dtype} {sample.name}".replace("torch.", "")


def run(op: Op, sample: Sample, **replaced) -> torch.Tensor:
    torch.manual_seed(1)
    return op(sample, **replaced)


@check
def values(device: str) -> Failures:
    """Every dtype, stride, offset and empty size, against the reference in float64."""
    dry = torch.device(device).type == "cpu"  # the test suite has all of them
    yield from few_values(device) if dry else wrong_values(samples(device), device)


@check
def few_values(device: str) -> Failures:
    """Some of them: what the slow tools run."""
    yield from wrong_values(samples(device, (torch.float32, torch.bfloat16), costly=True), device)


def wrong_values(cases: Iterator[tuple[Op, Sample, str]], device: str) -> Failures:
    for op, sample, name in cases:
        try:
            actual = run(op, sample)
            assert actual.device.type == torch.device(device).type, f"result on {actual.device}"
            torch.manual_seed(1)
            check_against_reference(op, sample, actual)
        except (AssertionError, RuntimeError) as error:
            yield f"{name}: {error}"


@check
def repeatability(device: str) -> Failures:
    """The same bits in ten runs, while other work keeps the device busy."""
    noise = torch.randn(256, 256, device=device)
    for op, sample, name in samples(device, (torch.float32, torch.bfloat16), costly=True):
        expected = run(op, sample).clone()
        for _ in range(10 if noise.is_cuda else 2):
            noise = (noise @ noise).clamp(-1, 1)
            if not same_bits(run(op, sample), expected):
                yield f"{name}: other bits"
                break


@check
def large(device: str) -> Failures:
    """The last elements of results with more than 2^31 elements, against small calls that give them alone."""
    cuda = torch.device(device).type == "cuda"
    width = 128
    rows = 2**31 // width + 5 if cuda else 517
    if cuda and torch.cuda.mem_get_info(device)[0] < 3 * rows * width * 2:
        raise NotHere(f"{3 * rows * width * 2 / 2**30:.0f} GiB of free memory are needed")
    table = torch.randn(32, 1, device=device).to(torch.bfloat16)
    slopes = torch.rand(1, device=device).to(torch.bfloat16)
    x = torch.randn(1, 1, width, device=device).to(torch.bfloat16)
    ours = posenc_ext
    last = {"start": rows - 3}

    def t5(q_len, q_offset):
        return ours.t5_bias(table, q_len, width, q_offset=q_offset)[0]

    def alibi(q_len, q_offset):
        return ours.alibi_bias(slopes, q_len, width, q_offset=q_offset)[0]

    op = torch.ops.posenc_ext
    index = torch.arange(width, device=device, dtype=torch.int32) % 32
    windows = torch.randn(2 * width - 1, 1, device=device).to(torch.bfloat16)
    for name, whole, end in (
        ("sinusoidal_table", lambda: ours.sinusoidal_table(rows, width, device=device, dtype=x.dtype),
         lambda: ours.sinusoidal_table(3, width, device=device, dtype=x.dtype, **last)),
        ("sinusoidal", lambda: ours.sinusoidal(torch.arange(rows, device=device), width, dtype=x.dtype),
         lambda: ours.sinusoidal(torch.arange(rows - 3, rows, device=device), width, dtype=x.dtype)),
        ("add_sinusoidal", lambda: ours.add_sinusoidal(x.expand(1, rows, width))[0],
         lambda: ours.add_sinusoidal(x.expand(1, 3, width), **last)[0]),
        ("t5_bias", lambda: t5(rows, 0), lambda: t5(3, rows - 3)),
        ("alibi_bias", lambda: alibi(rows, 0), lambda: alibi(3, rows - 3)),
        ("gather_bias", lambda: ours.gather_bias(table, index.expand(rows, width))[0],
         lambda: ours.gather_bias(table, index.expand(3, width))[0]),
        ("add_position_embedding",
         lambda: ours.add_position_embedding(x.expand(1, rows, width), x.expand(1, rows, width))[0],
         lambda: ours.add_position_embedding(x.expand(1, 3, width), x.expand(1, 3, width))[0]),
        ("window_bias", lambda: ours.window_bias(windows, [width], query_size=[rows])[0],
         lambda: ours.window_bias(windows, [width])[0][-1].expand(3, width)),
        ("_scale_dropout", lambda: op._scale_dropout(x.expand(1, rows, width), 1.5, 0.0, None)[0],
         lambda: op._scale_dropout(x.expand(1, 3, width), 1.5, 0.0, None)[0]),
        ("_sum_batch", lambda: op._sum_batch(x.expand(2, rows, width), True),
         lambda: op._sum_batch(x.expand(2, 3, width), True)),
    ):  # fmt: skip
        if not same_bits(whole()[-3:], end()):
            yield f"{name}: the end of {rows} x {width} elements"
    grad = torch.ones(1, 1, 1, device=device, dtype=torch.float32).expand(1, rows, width)
    sums = op._t5_bias_backward(grad, 32, rows, width)
    near = torch.tensor(float(rows * width), dtype=torch.float64)
    if abs(sums.double().sum().cpu() - near) > near * 2.0**-20:
        yield f"_t5_bias_backward: sums to {sums.double().sum()}, not {near}"


@check
def streams(device: str) -> Failures:
    """On a stream that is not the default one, after work that the inputs wait for."""
    if torch.device(device).type != "cuda":
        raise NotHere("needs CUDA")
    stream = torch.cuda.Stream(device)
    for op, sample, name in samples(device, (torch.float32,), costly=True):
        expected = run(op, sample).clone()
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            torch.cuda._sleep(1_000_000)
            moved = {
                n: t.clone(memory_format=torch.preserve_format)
                for n, t in sample.tensors().items()
                if n != "out"
            }
            actual = run(op, sample, **moved)
        stream.synchronize()
        if not same_bits(actual, expected):
            yield f"{name}: other bits on a side stream"


@check
def devices(device: str) -> Failures:
    """On each other device, while the current one is another."""
    if torch.device(device).type != "cuda" or torch.cuda.device_count() < 2:
        raise NotHere("needs two CUDA devices")
    for other in range(1, torch.cuda.device_count()):
        with torch.cuda.device(0):
            for op, sample, name in samples(f"cuda:{other}", (torch.float32,), costly=True):
                actual = run(op, sample)
                if actual.device.index != other:
                    yield f"{name}: result on {actual.device}, not cuda:{other}"
                if torch.cuda.current_device() != 0:
                    yield f"{name}: left cuda:{torch.cuda.current_device()} as the current device"
                    torch.cuda.set_device(0)
                torch.manual_seed(1)
                try:
                    check_against_reference(op, sample, actual)
                except AssertionError as error:
                    yield f"{name}: {error}"


@check
def graphs(device: str) -> Failures:
    """Captured and replayed: the bits of a plain call, and another dropout mask at each replay."""
    if torch.device(device).type != "cuda":
        raise NotHere("needs CUDA")
    for op, sample, name in samples(device, (torch.float32,), costly=True):
        if sample.inputs.get("training") or sample.inputs.get("seed") is not None:
            continue
        expected = run(op, sample).clone()  # and warms the caches up
        if expected.numel() == 0:
            continue  # launches nothing, which is no graph
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                actual = op(sample)
            for _ in range(3):
                actual.zero_()
                graph.replay()
            torch.cuda.synchronize()
            if not same_bits(actual, expected):
                yield f"{name}: other bits from a graph"
        except RuntimeError as error:
            yield f"{name}: {error}"
    for name, drop in dropouts(device).items():
        x = torch.full((4, 64, 128), 3.0, device=device, requires_grad=True)
        torch.autograd.grad(drop(x).sum(), x)  # warms the caches up
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = drop(x)
            (grad,) = torch.autograd.grad(y.sum(), x)
        masks = []
        for _ in range(3):
            graph.replay()
            masks.append((y == 0).clone())
            if not torch.equal(grad == 0, masks[-1]):
                yield f"{name}: the gradient drops other elements than the result"
        if any(torch.equal(a, b) for a, b in ((masks[0], masks[1]), (masks[1], masks[2]))):
            yield f"{name}: two replays of a graph drop the same elements"
        if not all(0.4 < mask.double().mean().item() < 0.6 for mask in masks):
            yield f"{name}: a replay drops another share than half"


def dropouts(device: str) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """The ops that drop; no element of theirs is zero by itself."""
    table = torch.full((1, 64, 128), 1.0, device=device)
    options = {"dropout_p": 0.5, "training": True}
    return {
        "add_sinusoidal": lambda x: posenc_ext.add_sinusoidal(x, **options),
        "add_position_embedding": lambda x: posenc_ext.add_position_embedding(x, table, **options),
    }


@check
def masks(device: str) -> Failures:
    """torch.manual_seed gives a mask again, the next draw another; the gradient drops the same elements."""
    for name, drop in dropouts(device).items():
        x = torch.full((4, 64, 128), 3.0, device=device, requires_grad=True)
        torch.manual_seed(7)
        first, second = drop(x), drop(x)
        torch.manual_seed(7)
        if not same_bits(drop(x), first):
            yield f"{name}: another mask after the same torch.manual_seed"
        if torch.equal(first == 0, second == 0):
            yield f"{name}: the same mask twice"
        (grad,) = torch.autograd.grad(second.sum(), x)
        if not torch.equal(grad == 0, second == 0):
            yield f"{name}: the gradient drops other elements than the result"


@check
def gradients(device: str) -> Failures:
    """gradcheck in float64."""
    for op, sample, name in samples(device, (torch.float64,), costly=True):
        if not differentiable(op, sample):
            continue
        try:
            names = op.gradients(sample)

            def fixed(*tensors, op=op, sample=sample, names=names):
                torch.manual_seed(1)
                return function_of(op, sample, names)(*tensors)

            torch.autograd.gradcheck(fixed, leaves(op, sample), nondet_tol=0.0)
        except RuntimeError as error:
            yield f"{name}: {error}"


@check
def opcheck(device: str) -> Failures:
    """PyTorch's own checks of a custom op."""
    for op, sample, name in samples(device, (torch.float32,), costly=True):
        inputs = dict(requiring_gradients(op, sample).inputs)
        names = [argument.name for argument in op.overload._schema.arguments if not argument.kwarg_only]
        positional = tuple(inputs.pop(argument) for argument in names)
        which = ["test_schema", "test_autograd_registration", "test_faketensor"]
        try:
            torch.library.opcheck(op.overload, positional, inputs, test_utils=which)
        except Exception as error:  # it raises errors of its own
            yield f"{name}: {error}"


@check
def compiled(device: str) -> Failures:
    """torch.compile, the whole in one graph, gives the bits of a plain call."""
    for op, sample, name in samples(device, (torch.float32,), costly=True):
        if not op.supports("compile") or sample.name != op.costly[0]:
            continue
        torch.compiler.reset()
        whole = torch.compile(op.overload, fullgraph=True, backend="aot_eager")
        torch.manual_seed(1)
        if not same_bits(whole(**sample.inputs), run(op, sample)):
            yield f"{name}: other bits when compiled"


@check
def sanitizers(device: str) -> Failures:
    """compute-sanitizer over the values of every op."""
    if torch.device(device).type != "cuda":
        raise NotHere("needs CUDA")
    program = shutil.which("compute-sanitizer", path=f"{sys.prefix}/bin:/usr/local/cuda/bin") or shutil.which(
        "compute-sanitizer"
    )
    if program is None:
        raise NotHere("compute-sanitizer is not installed")
    # torch's allocator would hide what lies behind a tensor.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for tool, which in SANITIZERS.items():
        words = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__]
        words += ["--device", device, "--only", which]
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            yield f"{tool}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@check
def suite(device: str) -> Failures:
    """The cases of the test suite that run on CUDA where there is a GPU."""
    if torch.device(device).type != "cuda":
        raise NotHere("needs CUDA")
    words = [sys.executable, "-m", "pytest", "-q", "-k", "cuda and not test_cuda_", str(ROOT / "tests")]
    safe = os.environ | {
        "PYTHONSAFEPATH": "1"
    }  # the package that is built, which may be another than the checkout's
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=safe)
    if done.returncode != 0:
        yield done.stdout[-4000:]


def no_gpu() -> str | None:
    """Why nothing can be run on CUDA here."""
    if not torch.cuda.is_available():
        return f"no GPU (torch {torch.__version__}): nothing was run"
    if not torch._C._dispatch_has_kernel_for_dispatch_key("posenc_ext::sinusoidal_table.out", "CUDA"):
        return "posenc_ext is built without CUDA: nothing was run"
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu for a dry run")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    options = parser.parse_args(arguments)
    on_cuda = torch.device(options.device).type == "cuda"
    if on_cuda and (reason := no_gpu()):
        print(f"gpu-test: {reason}")
        return 0
    if on_cuda:
        torch.cuda.set_device(torch.device(options.device).index or 0)  # whose current stream graphs capture
    where = torch.cuda.get_device_name() if on_cuda else "CPU, a dry run: says nothing of CUDA"
    print(f"gpu-test: {where}, torch {torch.__version__}, {len(OPS)} ops", flush=True)
    failed = 0
    for name in options.only:
        start, found = time.perf_counter(), 0
        try:
            for failure in CHECKS[name](options.device):
                found += 1
                if found <= 20:  # as soon as it is known: the run may be cut
                    print(f"  {name:14} {failure}", flush=True)
        except NotHere as reason:
            print(f"  {name:14} not run: {reason}", flush=True)
            continue
        failed += found
        verdict = f"{found} FAILED" if found else "passed"
        print(f"  {name:14} {verdict}, {time.perf_counter() - start:.1f} s", flush=True)
    print(f"gpu-test: {'FAILED' if failed else 'passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
