"""Bytes and launches per op, and the time they predict: python bench/roofline.py [--write]. No measurement.

The eager form's ATen kernels are listed as they are dispatched on CPU tensors, with the bytes that each reads
and writes (gathers: what they write, twice). posenc_ext: the bytes that must be moved, the launches in
csrc/cuda/kernels/*.cu. --write puts the table into csrc/cuda/README.md.
"""

import argparse
import sys
from pathlib import Path

import torch
from gpu_bench import cases
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path += [str(Path(__file__).resolve().parents[1] / name) for name in ("tools", "tests")]
import cuda_static
import markdown_block

COMMAND = "python bench/roofline.py --write"
BANDWIDTH, LAUNCH = 3.0e12, 2e-6  # bytes a second of an H100; seconds a launch
GATHERS = ("index", "gather", "index_select", "embedding")
# Kernels launched by an op, where it is not one. Long sums are cut in pieces; the seed of dropout is drawn by
# torch.randint.
LAUNCHES = {"t5_bias, backward": 2, "alibi_bias, backward": 2, "gather_bias, backward": 2}
LAUNCHES |= {"add_sinusoidal, dropout": 2}


class Kernels(TorchDispatchMode):
    """Counts the ATen ops that are no views, and the bytes of the tensors that they read and write."""

    def __init__(self):
        super().__init__()
        self.launches = self.bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        read = [t for t in tree_leaves((arguments, keywords)) if isinstance(t, torch.Tensor)]
        written = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        storages = {t.untyped_storage().data_ptr() for t in read}
        view = all(t.untyped_storage().data_ptr() in storages for t in written) and not mutates(function)
        name = function.overloadpacket.__name__
        if not view and name not in (
            "empty",
            "empty_like",
            "new_empty",
            "new_empty_strided",
            "empty_strided",
        ):
            self.launches += 1
            sizes = [2 * size(t) for t in written] if name in GATHERS else [size(t) for t in read + written]
            self.bytes += sum(sizes)
        return result


def size(t: torch.Tensor) -> int:
    """Bytes that stand in memory: an expanded axis once."""
    count = 1
    for length, stride in zip(t.shape, t.stride()):
        count *= length if stride else min(length, 1)
    return count * t.element_size()


def mutates(function) -> bool:
    return any(a.alias_info is not None and a.alias_info.is_write for a in function._schema.arguments)


def microseconds(moved: int, launches: int) -> float:
    return 1e6 * (moved / BANDWIDTH + launches * LAUNCH)


def markdown(small: bool = False) -> str:
    head = "| float32 | eager: launches | MB | us | posenc_ext: launches | MB | us | ratio |"
    lines = [head, "|---" * 8 + "|"]
    for case in cases("cpu", torch.float32, small):
        with Kernels() as eager:
            case.eager()
        plain = microseconds(eager.bytes, eager.launches)
        cells = [case.name, f"{eager.launches}", f"{eager.bytes / 1e6:.1f}", f"{plain:.0f}"]
        launches = LAUNCHES.get(case.name, 1)
        ours = microseconds(case.moved, launches)
        cells += [f"{launches}", f"{case.moved / 1e6:.1f}", f"{ours:.0f}", f"{plain / ours:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        "A prediction, not a measurement: bytes at 3.0 TB/s (H100) and 2 us a launch, nothing else: no "
        "arithmetic, no cache. Sizes are those of bench/gpu_bench.py."
    )
    return "\n".join([*lines, "", note, ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    table = markdown()
    print(table)
    if parser.parse_args().write:
        markdown_block.write(cuda_static.README, COMMAND, table)
