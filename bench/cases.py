"""The work that bench/run.py times: the rows of docs/performance.md, and a few more."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import posenc_ext
from posenc_ext import reference

Contender = Callable[[], object]
# The forms of one computation, by contender, and their arguments, or those of each contender; every
# floating-point argument is a leaf.
Forms = tuple[dict[str, Callable[..., Tensor]], list[object] | dict[str, list[object]]]


@dataclass(frozen=True)
class Case:
    title: str
    direction: str  # forward; backward, of a result whose graph is retained; both: forward and backward
    make: Callable[[torch.dtype, str], Forms]  # for a dtype and a device
    limit: str | None  # fill, copy or read: what the memory has to do at least with the bytes of a result,
    passes: int = 1  # and how often
    tolerance: float = 0.0  # of a difference from eager, relative to the largest value
    dropout_p: float = 0.0
    dtype: torch.dtype = torch.float32
    in_table: bool = True
    own_leaves: int = 0  # so many of the last arguments differ from contender to contender: not compared

    @property
    def name(self) -> str:
        return f"{self.title}, {self.direction}, {str(self.dtype).removeprefix('torch.')}"


def contenders(
    case: Case, device: str = "cpu", compiled: bool = False, only: str | None = None
) -> tuple[dict[str, Contender], int]:
    """The contenders of a case, or the one named `only`, bound to their arguments; the bytes of a result."""
    forms, arguments = case.make(case.dtype, device)
    own = arguments if isinstance(arguments, dict) else dict.fromkeys(forms, arguments)
    forms = {name: form for name, form in forms.items() if only in (None, name)}
    if compiled:
        forms["torch.compile"], own["torch.compile"] = (
            torch.compile(forms["eager"], dynamic=False),
            own["eager"],
        )
    bound = {name: partial(form, *own[name]) for name, form in forms.items()}
    result = next(iter(bound.values()))()  # eager: others may write over their arguments
    if case.direction == "forward":
        return bound, result.nbytes
    tensors = {n: [a for a in own[n] if isinstance(a, Tensor) and a.is_floating_point()] for n in bound}
    leaves = {name: [a.requires_grad_() for a in found] for name, found in tensors.items()}
    # Contiguous, as attention gives it; without zeros, which mark what dropout drops.
    upstream = torch.rand_like(result, memory_format=torch.contiguous_format).add_(0.5)
    if case.direction == "both":
        grad = torch.autograd.grad
        return {n: lambda n=n, f=f: grad(f(), leaves[n], upstream) for n, f in bound.items()}, result.nbytes
    backward = partial(torch.autograd.grad, grad_outputs=upstream, retain_graph=True)
    return {name: partial(backward, form(), leaves[name]) for name, form in bound.items()}, result.nbytes


def disagreement(case: Case, expected: object, actual: object) -> float:
    """The largest difference, relative to the largest value; infinite for other dtypes, shapes or drops."""
    worst = 0.0
    pairs = list(zip(*([r] if isinstance(r, Tensor) else r for r in (expected, actual)), strict=True))
    if case.direction != "forward":
        pairs = pairs[: len(pairs) - case.own_leaves]
    for a, b in pairs:
        if a.dtype != b.dtype or a.shape != b.shape:
            return math.inf
        a, b = a.detach().double(), b.detach().double()
        if case.dropout_p:  # the masks differ: compares their shares, and the elements that both retain
            if any(abs((t == 0).double().mean() - case.dropout_p) > 0.01 for t in (a, b)):
                return math.inf
            both = (a != 0) & (b != 0)
            a, b = a[both], b[both]
        error = float((a - b).abs().max() / a.abs().max())
        worst = worst if error <= worst else error  # a NaN stays
    return worst


def rates(dim: int, device: str) -> Tensor:
    return torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10000.0) / dim))


def eager_table(length: int, dim: int, dtype: torch.dtype, device: str) -> Tensor:
    """The tutorial's."""
    position = torch.arange(length, device=device).unsqueeze(1)
    pe = torch.zeros(length, dim, device=device)
    pe[:, 0::2] = torch.sin(position * rates(dim, device))
    pe[:, 1::2] = torch.cos(position * rates(dim, device))
    return pe.to(dtype)


def table(length: int, dim: int, dtype: torch.dtype, device: str) -> Forms:
    def best():
        positions = torch.arange(length, dtype=torch.float32, device=device)
        angles = torch.outer(positions, rates(dim, device))
        pe = torch.empty(length, dim, device=device)
        torch.sin(angles, out=pe[:, 0::2])
        torch.cos(angles, out=pe[:, 1::2])
        return pe.to(dtype)

    eager = partial(eager_table, length, dim, dtype, device)
    ours = partial(posenc_ext.sinusoidal_table, length, dim, dtype=dtype, device=device)
    return {"eager": eager, "best eager": best, "posenc_ext": ours}, []


def timesteps(count: int, dim: int, dtype: torch.dtype, device: str) -> Forms:
    half = dim // 2
    cached = torch.exp(-math.log(10000) * torch.arange(half, device=device) / half)

    def eager(steps):  # diffusers' get_timestep_embedding
        exponent = -math.log(10000) * torch.arange(0, half, dtype=torch.float32, device=device)
        angles = steps[:, None].float() * torch.exp(exponent / half)[None, :]
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1).to(dtype)

    def best(steps):
        angles = torch.outer(steps.float(), cached)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)

    ours = partial(posenc_ext.sinusoidal, dim=dim, layout="concat", dtype=dtype)
    steps = torch.linspace(1, 999, count, device=device).round().long()
    return {"eager": eager, "best eager": best, "posenc_ext": ours}, [steps]


def add(length: int, batch: int, dim: int, p: float, dtype: torch.dtype, device: str) -> Forms:
    pe, scale = eager_table(length, dim, dtype, device).unsqueeze(1), math.sqrt(dim)

    def eager(x):
        y = x * scale + pe
        return torch.dropout(y, p, True) if p else y

    def best(x):
        y = torch.add(pe, x, alpha=scale)
        return torch.dropout(y, p, True) if p else y

    options = {"x_scale": scale, "batch_first": False, "dropout_p": p, "training": p > 0}
    ours = partial(posenc_ext.add_sinusoidal, **options)
    x = torch.rand(length, batch, dim, device=device).add_(0.5).to(dtype)
    return {"eager": eager, "best eager": best, "posenc_ext": ours}, [x]


def vit(batch: int, differentiable: bool, dtype: torch.dtype, device: str) -> Forms:
    tokens, dim = 196, 768
    x, pos_embed, cls = (
        torch.randn(*shape, device=device).to(dtype)
        for shape in ((batch, tokens, dim), (1, tokens + 1, dim), (1, 1, dim))
    )

    def eager(x, pos_embed, cls):
        return torch.cat([cls.expand(batch, -1, -1), x], 1) + pos_embed

    def slices(x, pos_embed, cls):
        out = x.new_empty(batch, tokens + 1, dim)
        torch.add(x, pos_embed[:, 1:], out=out[:, 1:])
        torch.add(cls.expand(batch, -1, -1), pos_embed[:, :1], out=out[:, :1])
        return out

    def sums(x, pos_embed, cls):  # torch.add(out=) has no gradient
        return torch.cat([(cls + pos_embed[:, :1]).expand(batch, -1, -1), x + pos_embed[:, 1:]], 1)

    def ours(x, pos_embed, cls):
        return posenc_ext.add_position_embedding(x, pos_embed, [cls])

    best = sums if differentiable else slices
    return {"eager": eager, "best eager": best, "posenc_ext": ours}, [x, pos_embed, cls]


def window(size: int, heads: int, query: int, dtype: torch.dtype, device: str) -> Forms:
    """The bias of a square window; of a finer grid of queries than keys where `query` is not `size`."""
    keys, ratio = size * size, query // size
    flat = reference.window_index([size, size]).view(-1).to(device)

    def eager(table):
        bias = table[flat].view(size, size, keys, -1)
        if ratio > 1:
            bias = bias.repeat_interleave(ratio, dim=0).repeat_interleave(ratio, dim=1)
        return bias.view(query * query, keys, -1).permute(2, 0, 1).contiguous()

    def best(table):
        bias = table.t().contiguous().index_select(1, flat)
        if ratio > 1:
            bias = bias.view(heads, size, 1, size, 1, keys).expand(heads, size, ratio, size, ratio, keys)
        return bias.reshape(heads, query * query, keys)

    expanded = {"query_size": [query, query]} if ratio > 1 else {}
    ours = partial(posenc_ext.window_bias, window=[size, size], **expanded)
    table = torch.randn((2 * size - 1) ** 2, heads, device=device).to(dtype)
    return {"eager": eager, "best eager": best, "posenc_ext": ours}, [table]


def t5_buckets(q_len: int, k_len: int, q_offset: int, bidirectional: bool, device: str) -> Tensor:
    """As transformers computes them, for 32 buckets and distances up to 128."""
    context = torch.arange(q_len, device=device)[:, None] + q_offset
    distance = torch.arange(k_len, device=device)[None, :] - context
    found, count = 0, 32
    if bidirectional:
        count //= 2
        found = found + (distance > 0).to(torch.long) * count
        distance = torch.abs(distance)
    else:
        distance = -torch.min(distance, torch.zeros_like(distance))
    exact = count // 2
    large = torch.log(distance.float() / exact) / math.log(128 / exact) * (count - exact)
    large = torch.min(exact + large.to(torch.long), torch.full_like(distance, count - 1))
    return found + torch.where(distance < exact, distance, large)


def t5(q_len: int, k_len: int, heads: int, dtype: torch.dtype, device: str) -> Forms:
    decoding, offset = q_len == 1, k_len - q_len

    def eager(table):  # transformers' compute_bias: a permuted view
        index = t5_buckets(q_len, k_len, offset, not decoding, device)
        return torch.nn.functional.embedding(index, table).permute(2, 0, 1)

    cached = t5_buckets(q_len, k_len, offset, not decoding, device).view(-1).int()
    distances = torch.arange(q_len + k_len - 1, device=device) - (k_len - 1)
    diagonals = reference.t5_bucket(distances, 32, not decoding, 128)

    def by_buckets(table):
        return table.t().contiguous().index_select(1, cached).view(heads, q_len, k_len)

    def by_diagonals(table):
        return table.t()[:, diagonals].unfold(1, k_len, 1).flip(1)

    def ours(table):
        return posenc_ext.t5_bias(table, q_len, k_len, q_offset=offset, bidirectional=not decoding)

    table = torch.randn(32, heads, device=device).to(dtype)
    best = by_buckets if decoding else by_diagonals
    return {"eager": eager, "best eager": best, "posenc_ext": ours}, [table]


def gather(batch: int, length: int, heads: int, dtype: torch.dtype, device: str) -> Forms:
    index = torch.randint(0, 32, (batch, length, length), device=device)

    def eager(table):
        return table[index].permute(0, 3, 1, 2).contiguous()

    def best(table):
        by_head = table.t().contiguous()
        return torch.stack([by_head.index_select(1, i.view(-1)).view(heads, length, length) for i in index])

    ours = partial(posenc_ext.gather_bias, index=index)
    table = torch.randn(32, heads, device=device).to(dtype)
    return {"eager": eager, "best eager": best, "posenc_ext": ours}, [table]


def alibi(length: int, heads: int, dtype: torch.dtype, device: str) -> Forms:
    def distances():
        at = torch.arange(length, device=device)
        return -(at - at[:, None]).abs()

    cached = distances().float()
    ours = partial(posenc_ext.alibi_bias, q_len=length, k_len=length)
    slopes = posenc_ext.alibi_slopes(heads, dtype=dtype, device=device)
    return {
        "eager": lambda slopes: (slopes.float()[:, None, None] * distances()).to(dtype),
        "best eager": lambda slopes: (slopes.float()[:, None, None] * cached).to(dtype),
        "posenc_ext": ours,
    }, [slopes]


def call(dtype: torch.dtype, device: str) -> Forms:
    """What a call costs apart from its work."""
    x, pos_embed = (torch.randn(*shape, device=device).to(dtype) for shape in ((1, 8, 8), (8, 8)))
    return {"eager": torch.add, "posenc_ext": posenc_ext.add_position_embedding}, [x, pos_embed]


def everything() -> list[Case]:
    big = partial(add, 512, 32, 512)
    # The eager table rounds position * rate, and sums up to 34 are rounded.
    plain = {"title": "add 512x32x512 length first, p=0", "make": partial(big, 0.0), "limit": "copy"}
    dropped = {"title": "add 512x32x512 length first, p=0.1", "make": partial(big, 0.1), "dropout_p": 0.1}
    dropped |= {"limit": "copy", "tolerance": 2e-5}
    found = [
        Case("table 5000x512", "forward", partial(table, 5000, 512), "fill", tolerance=1e-3),
        Case("timesteps N=4096, D=320", "forward", partial(timesteps, 4096, 320), "fill", tolerance=2e-4),
        Case(**plain, direction="forward", tolerance=2e-5),
        Case(**dropped, direction="both", passes=2),
        Case("ViT add, B=64, 196x768", "forward", partial(vit, 64, False), "copy", tolerance=1e-5),
        Case("ViT add, B=64, 196x768", "backward", partial(vit, 64, True), "read", tolerance=1e-5),
    ]
    # Biases are copied values; their gradients are sums of up to 4 million float32 in other orders.
    biases = {
        "window 7x7, 12 heads": partial(window, 7, 12, 7),
        "window 32x32, 16 heads": partial(window, 32, 16, 32),
        "expand 16x16 to 112x112, 4 heads": partial(window, 16, 4, 112),
        "T5 2048x2048, 12 heads": partial(t5, 2048, 2048, 12),
        "T5 decode k=4096, 12 heads": partial(t5, 1, 4096, 12),
        "any index 2x512x512, 12 heads": partial(gather, 2, 512, 12),
        "ALiBi 512x512, 12 heads": partial(alibi, 512, 12),
    }
    for title, make in biases.items():
        found.append(Case(title, "forward", make, "fill"))
        if "decode" not in title:
            shown = not title.startswith("ALiBi")
            found.append(Case(title, "backward", make, "read", tolerance=2e-3, in_table=shown))
    small = partial(add, 128, 8, 512, 0.0)
    found.append(
        Case("add 128x8x512 length first, p=0", "forward", small, "copy", tolerance=2e-5, in_table=False)
    )
    for dtype in (torch.bfloat16, torch.float16):
        other = {"direction": "forward", "tolerance": 2**-6, "dtype": dtype, "in_table": False}
        found.append(Case(**plain, **other))
        found.append(Case("ViT add, B=64, 196x768", make=partial(vit, 64, False), limit="copy", **other))
    for direction in ("forward", "both"):
        found.append(Case("call of 64 elements", direction, call, None, tolerance=1e-6, in_table=False))
    return found
