"""Bytes and launches of the rows of run.py, and the time that they predict on a GPU. No measurement.

python bench/roofline.py [--write]. The ATen kernels of the eager form are counted as they are dispatched on
CPU tensors, with the bytes that each reads and writes (gathers: what they write, twice). posenc_ext: the
bytes that must be moved, and the launches in csrc/cuda/kernels/*.cu. --write renews csrc/cuda/README.md.
"""

import argparse
from functools import partial

import torch
from cases import Case, Forms, contenders, everything
from report import ROOT, markdown_block, row
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from posenc_ext import reference

COMMAND = "python bench/roofline.py --write"
BANDWIDTH, LAUNCH = 3.0e12, 2e-6  # bytes a second of an H100; seconds a launch
GATHERS = ("index", "gather", "index_select", "embedding")
EMPTY = ("empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided")
# More than one launch: long sums are split, and torch.randint generates the seed of dropout.
LAUNCHES = {"T5 2048x2048, 12 heads, backward": 2, "any index 2x512x512, 12 heads, backward": 2}
LAUNCHES |= {"ALiBi 512x512, 12 heads, backward": 2, "add 512x32x512 length first, p=0.1, both": 3}


def softmax_of_window(samples: int, size: int, heads: int, regions: bool, dtype, device: str) -> Forms:
    """Scores of windows with a bias, as torchvision's Swin and timm's BEiT write it."""
    keys = size * size
    index = reference.window_index([size, size]).view(-1).to(device)
    ids = torch.randint(0, 3, (min(samples, 64), keys), device=device) if regions else None
    mask = torch.zeros(64, 1, keys, keys, device=device, dtype=dtype) if regions else None

    def eager(scores: Tensor, table: Tensor) -> Tensor:
        scores = scores + table[index].view(keys, keys, -1).permute(2, 0, 1).contiguous()
        if mask is not None:
            scores = (scores.view(-1, len(mask), heads, keys, keys) + mask.unsqueeze(0)).view(scores.shape)
        return torch.softmax(scores, -1)

    def ours(scores: Tensor, table: Tensor) -> Tensor:
        return torch.ops.posenc_ext.window_bias_softmax(scores, table, [size, size], regions=ids)

    scores = torch.randn(samples, heads, keys, keys, device=device, dtype=dtype)
    table = torch.randn((2 * size - 1) ** 2, heads, device=device, dtype=dtype)
    return {"eager": eager, "posenc_ext": ours}, [scores, table]


def softmax_of_t5(batch: int, length: int, heads: int, dtype, device: str) -> Forms:
    """A layer of transformers' T5, whose layers share one bias; ours share its diagonals."""

    def eager(scores: Tensor, bias: Tensor) -> Tensor:
        return torch.softmax(scores + bias, -1)

    def ours(scores: Tensor, bias: Tensor) -> Tensor:
        diagonals = torch.cat([bias[0, :, 1:, 0].flip(1), bias[0, :, 0]], 1)
        return torch.ops.posenc_ext.diagonal_bias_softmax(scores, diagonals)

    scores = torch.randn(batch, heads, length, length, device=device, dtype=dtype)
    bias = torch.randn(1, heads, length, length, device=device, dtype=dtype)
    return {"eager": eager, "posenc_ext": ours}, [scores, bias]


def softmax_cases() -> list[Case]:
    """Forward: a read and a write. Backward: two reads and a write for scores, two reads for the table."""
    works = {
        "softmax Swin 7x7, 64 windows x 8, 3 heads": (partial(softmax_of_window, 512, 7, 3, True), 3),
        "softmax BEiT 14x14 x 32, 12 heads": (partial(softmax_of_window, 32, 14, 12, False), 3),
        "softmax T5 1024x1024 x 4, 8 heads": (partial(softmax_of_t5, 4, 1024, 8), 3),
    }
    found = []
    for title, (make, launches) in works.items():
        found += [Case(title, "forward", make, "copy"), Case(title, "backward", make, "read", passes=5)]
        LAUNCHES[f"{title}, backward"] = launches
    return found


class Kernels(TorchDispatchMode):
    """Counts the ATen ops that are not views, and the bytes of the tensors that they read and write."""

    def __init__(self):
        super().__init__()
        self.launches = self.bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        read = [t for t in tree_leaves((arguments, keywords)) if isinstance(t, torch.Tensor)]
        written = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        storages = {t.untyped_storage().data_ptr() for t in read}
        mutates = any(a.alias_info is not None and a.alias_info.is_write for a in function._schema.arguments)
        view = all(t.untyped_storage().data_ptr() in storages for t in written) and not mutates
        name = function.overloadpacket.__name__
        if not view and name not in EMPTY:
            self.launches += 1
            sizes = [2 * size(t) for t in written] if name in GATHERS else [size(t) for t in read + written]
            self.bytes += sum(sizes)
        return result


def size(t: torch.Tensor) -> int:
    """Bytes in memory: an expanded axis counts once."""
    count = 1
    for length, stride in zip(t.shape, t.stride()):
        count *= length if stride else min(length, 1)
    return count * t.element_size()


def markdown(only: str = "") -> str:
    head = "| float32 | eager: launches | MB | us | posenc_ext: launches | MB | us | ratio |"
    lines = [head, "|---" * 8 + "|"]
    for case in [*everything(), *softmax_cases()]:
        if case.dtype != torch.float32 or case.limit is None or only not in case.name:
            continue
        made, nbytes = contenders(case)
        with Kernels() as eager:
            made["eager"]()
        name = row({"case": case.name})
        moved = nbytes * case.passes * (2 if case.limit == "copy" else 1)
        cells, times = [], []
        for launches, total in ((eager.launches, eager.bytes), (LAUNCHES.get(name, 1), moved)):
            times.append(1e6 * (total / BANDWIDTH + launches * LAUNCH))
            cells += [f"{launches}", f"{total / 1e6:.1f}", f"{times[-1]:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {times[0] / times[1]:.1f} |")
    note = (
        "A prediction, not a measurement: bytes at 3.0 TB/s (H100) and 2 us a launch, without arithmetic and "
        "caches. Sizes are those of bench/cases.py."
    )
    return "\n".join([*lines, "", note, ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    table = markdown()
    print(table)
    if parser.parse_args().write:
        markdown_block.write(ROOT / "csrc" / "cuda" / "README.md", COMMAND, table)
