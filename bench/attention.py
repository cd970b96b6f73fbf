"""Times softmax with a position bias, and attention around it: python bench/attention.py

Options, method and columns are those of run.py.
- eager: the code of torchvision, timm and transformers, which gathers the bias, adds it, adds the mask and
  calls softmax. best eager: in inference a cached sum of bias and mask is added in place; in training the
  bias is gathered by index_select.
- posenc_ext: writes over the scores, as after a matrix product. out of place: with a new result.
- SDPA: scaled_dot_product_attention, in inference with a cached mask (its flash path), in training with one
  that has a gradient (its math path).
A T5 layer is given what its layers share: eager the bias [1, heads, Q, K], posenc_ext the diagonals.
"""

import itertools
import sys
from functools import partial
from pathlib import Path

import cases
import report
import run
import torch
from cases import Case, Forms
from torch import Tensor
from torch.nn import functional as F

from posenc_ext import reference

PAGE = Path(__file__).with_name("ATTENTION.md")
ops = torch.ops.posenc_ext


class Window:
    """The windows of `batch` images; a shifted window is divided into regions."""

    def __init__(self, size: int, batch: int, windows: int, heads: int, prefix: int, shifted: bool) -> None:
        self.tokens, self.scale = size * size + prefix, (64 if prefix else 32) ** -0.5
        self.shape = (batch * windows, heads, self.tokens)
        self.windows, self.index = windows, reference.window_index([size, size], prefix_tokens=prefix)
        self.regions = regions(size, windows) if shifted else None
        self.arguments = {"window": [size, size], "prefix_tokens": prefix, "regions": self.regions}
        self.softmax, self.softmax_ = ops.window_bias_softmax, ops.window_bias_softmax_
        self.attention = ops.window_attention
        self.table = self.given = torch.randn(int(self.index.max()) + 1, heads)
        self.mask = None
        if shifted:
            other = self.regions[:, None, :] != self.regions[:, :, None]
            self.mask = torch.zeros(other.shape).masked_fill(other, -100.0)[:, None]  # a buffer of the model

    def bias(self, table: Tensor) -> Tensor:
        return table[self.index.view(-1)].view(self.tokens, self.tokens, -1).permute(2, 0, 1).contiguous()

    def best_bias(self, table: Tensor) -> Tensor:
        by_head = table.t().contiguous()
        return by_head.index_select(1, self.index.view(-1)).view(-1, self.tokens, self.tokens)


class Diagonals:
    """T5: what a layer is given is made once for all layers."""

    scale, windows, mask, arguments = 1.0, 1, None, {}

    def __init__(self, batch: int, length: int, heads: int) -> None:
        self.shape = (batch, heads, length)
        self.softmax, self.softmax_ = ops.diagonal_bias_softmax, ops.diagonal_bias_softmax_
        self.attention = ops.diagonal_attention
        self.table = torch.randn(heads, 2 * length - 1)
        self.given = self.table.unfold(1, length, 1).flip(1).unsqueeze(0)

    def bias(self, given: Tensor) -> Tensor:
        return given

    best_bias = bias


Source = Window | Diagonals


def regions(size: int, windows: int) -> Tensor:
    """Of the windows of a square image that is shifted by half a window."""
    side = round(windows**0.5)
    line = torch.arange(side * size)
    part = (line >= (side - 1) * size).int() + (line >= side * size - size // 2).int()
    image = 3 * part[:, None] + part
    return image.view(side, size, side, size).transpose(1, 2).reshape(windows, size * size)


def plus_mask(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else (x.view(-1, len(mask), *x.shape[1:]) + mask).view(x.shape)


def like_a_product(scores: Tensor) -> Tensor:
    """The same memory as the result of an op: a leaf with a gradient cannot be written over."""
    return torch.ops.aten._unsafe_view(scores, scores.shape)


def softmax(make: partial[Source], differentiable: bool, dtype: torch.dtype, device: str) -> Forms:
    source = make()
    _, heads, tokens = source.shape
    scores, table = torch.randn(*source.shape, tokens).to(dtype), source.table.to(dtype)
    mask = None if source.mask is None else source.mask.to(dtype)

    def eager(scores, given):
        return plus_mask(scores + source.bias(given), mask).softmax(-1)

    def best(scores, given):
        return plus_mask(scores + source.best_bias(given), mask).softmax(-1)

    cached = source.best_bias(source.given.to(dtype)).contiguous()
    cached = cached if mask is None else cached + mask
    signs = itertools.cycle([1, -1])  # or the sums grow from call to call

    def best_inference(scores, given):
        x = scores.view(-1, source.windows, heads, tokens, tokens).add_(cached, alpha=next(signs))
        return x.view(scores.shape).softmax(-1)

    def ours(scores, table):
        return source.softmax_(like_a_product(scores), table, **source.arguments)

    best = best if differentiable else best_inference
    forms = {"eager": eager, "best eager": best, "out of place": partial(source.softmax, **source.arguments)}
    forms |= {"posenc_ext": ours}
    given = table if source.given is source.table else source.given.to(dtype).contiguous()
    seconds = {"eager": given, "best eager": given, "out of place": table, "posenc_ext": table}
    return forms, {name: [scores.clone(), second.clone()] for name, second in seconds.items()}


def attention(make: partial[Source], differentiable: bool, dtype: torch.dtype, device: str) -> Forms:
    source = make()
    samples, heads, tokens = source.shape
    channels, scale = 64 if source.scale != 32**-0.5 else 32, source.scale
    qkv = [torch.randn(samples, tokens, heads, channels).to(dtype).transpose(1, 2) for _ in range(3)]

    def whole(bias):
        if source.mask is None:
            return bias if bias.dim() == 4 else bias.unsqueeze(0)
        masks = bias + source.mask
        return masks.expand(samples // len(masks), *masks.shape).reshape(samples, heads, tokens, tokens)

    cached = None if differentiable else whole(source.best_bias(source.given)).contiguous()

    def eager(q, k, v, given):
        scores = (q if scale == 1.0 else q * scale) @ k.transpose(-2, -1)
        return plus_mask(scores + source.bias(given), source.mask).softmax(-1) @ v

    def sdpa(q, k, v, given):
        mask = whole(source.bias(given)) if cached is None else cached
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

    ours = partial(source.attention, scale=scale, **source.arguments)
    given = source.given.contiguous()
    return {"eager": eager, "SDPA": sdpa, "posenc_ext": ours}, {
        "eager": [*qkv, given],
        "SDPA": [*qkv, given],
        "posenc_ext": [*qkv, source.table],
    }


def t5_layers(batch: int, length: int, heads: int, dtype: torch.dtype, device: str) -> Forms:
    """Six layers with one table, each on the result of the one before."""

    def eager(scores, table):
        bias = table[cases.t5_buckets(length, length, 0, True, device)].permute(2, 0, 1).unsqueeze(0)
        for _ in range(6):
            scores = (scores + bias).softmax(-1)
        return scores

    buckets = cases.t5_buckets(1, 2 * length - 1, length - 1, True, device)[0]

    def best(scores, table):
        bias = table.t()[:, buckets].unfold(1, length, 1).flip(1)
        for _ in range(6):
            scores = (scores + bias).softmax(-1)
        return scores

    def ours(scores, table):
        diagonals = ops.t5_bias(table, 1, 2 * length - 1, q_offset=length - 1).squeeze(1)
        for _ in range(6):
            scores = ops.diagonal_bias_softmax(scores, diagonals)
        return scores

    arguments = [torch.randn(batch, heads, length, length).to(dtype), torch.randn(32, heads).to(dtype)]
    return {"eager": eager, "best eager": best, "posenc_ext": ours}, arguments


def sources() -> dict[str, partial[Source]]:
    """Batch, windows an image, heads."""
    return {
        "Swin 7x7, 1x64x3, shifted": partial(Window, 7, 1, 64, 3, 0, True),
        "Swin 7x7, 1x1x24": partial(Window, 7, 1, 1, 24, 0, False),
        "Swin 7x7, 8x64x3, shifted": partial(Window, 7, 8, 64, 3, 0, True),
        "Swin 7x7, 8x4x12": partial(Window, 7, 8, 4, 12, 0, False),
        "Swin 12x12, 1x64x4, shifted": partial(Window, 12, 1, 64, 4, 0, True),
        "Swin 16x16, 1x16x4, shifted": partial(Window, 16, 1, 16, 4, 0, True),
        "BEiT 224, 1x12": partial(Window, 14, 1, 1, 12, 1, False),
        "BEiT 224, 8x12": partial(Window, 14, 8, 1, 12, 1, False),
        "BEiT 384, 1x12": partial(Window, 24, 1, 1, 12, 1, False),
        "T5 512, 1x8": partial(Diagonals, 1, 512, 8),
        "T5 512, 4x8": partial(Diagonals, 4, 512, 8),
        "T5 1024, 1x12": partial(Diagonals, 1, 1024, 12),
        "T5 1024, 4x8": partial(Diagonals, 4, 1024, 8),
    }


def case(title: str, make: partial[Source], form, direction: str, dtype: torch.dtype) -> Case:
    both, exact = direction == "both", dtype == torch.float32
    # Gradients of tables are sums in other orders, which eager PyTorch rounds to bfloat16 at every step.
    tolerance = (2e-3 if both else 1e-5) if exact else (0.1 if both else 2**-6)
    own = int(make.func is Diagonals)  # the last argument is not that of eager
    made = partial(form, make, both)
    limit = "copy" if form is softmax and not both else None
    return Case(
        f"{form.__name__} {title}", direction, made, limit, tolerance=tolerance, dtype=dtype, own_leaves=own
    )


def everything() -> list[Case]:
    single, half = torch.float32, torch.bfloat16
    kinds = [(softmax, "forward", single), (softmax, "both", single), (softmax, "forward", half)]
    kinds += [(softmax, "both", half), (attention, "forward", single), (attention, "both", single)]
    found = [case(title, make, *kind) for kind in kinds for title, make in sources().items()]
    layers = {"512, 1x8": (1, 512, 8), "512, 4x8": (4, 512, 8)}
    for title, sizes in layers.items():
        made = partial(t5_layers, *sizes)
        found.append(Case(f"6 layers of softmax T5 {title}", "both", made, None, tolerance=2e-3))
    return found


def page(record: dict) -> str:
    return (
        "# Softmax with a position bias, and attention\n\n"
        "Written by `make bench-attention ARGS=--write`; `bench/attention.py` says what is compared. Sizes: "
        "batch x windows of an image x heads, or batch x heads. float32 where no dtype is named, one thread "
        f"/ all threads. {record['setting']}.\n\n{report.markdown(record['results'])}"
    )


def write(record: dict) -> None:
    PAGE.write_text(page(record))


if __name__ == "__main__":
    sys.exit(run.main(cases=everything(), write=write, program=__file__))
