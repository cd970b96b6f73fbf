"""What is wrong with relative-position bias tables: their index buffers and their gradients."""

import ast
import functools
import inspect
import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from ..compositions import window_index
from ..ops import alibi_slopes
from ._sinusoids import HALF, Finding, name_of

_INDEX_NAME = re.compile(r"(rel|bias).*(ind(ex|ices)|idxs?)")
_TABLE_NAME = re.compile(
    r"^(global_)?rel\w*_(bias|bias_table)$|^attention_biases$|^rel_(pos_[htw]|attn_embed|embeddings|pos_emb)$"
    r"|^distance_embedding$"
)
# Classes whose tables are not read by indexing, by library and name.
_NOT_INDEXED = {
    ("timm", "RelPosBiasTf"): "matmul",  # by a product with one-hot matrices
    ("transformers", "CpmAntSegmentPositionEmbedding"): "embedding",  # F.embedding of a parameter
}
# Models of transformers that compute ALiBi in half precision, if they are in half precision or always.
ALIBI = ("transformers.BloomModel", "transformers.FalconModel")
_NO_OP = "torch.use_deterministic_algorithms(True), a table in float32: posenc_ext has no op for this bias"
_MEASURED_TERMS = 1 << 20
# From this many elements on, index_put_ on the CPU divides a float32 sum among threads.
_GRAIN = 32768


class Table(NamedTuple):
    """A table of biases that a module reads."""

    name: str  # the attribute of the module
    what: str
    parameter: nn.Parameter
    read_by: str  # "index", "embedding" or "matmul"
    heads: int  # values that share an index
    rows: int  # 0: as many as the index has
    fix: str = ""  # what to use instead; "": what the index says


def describe(name: str, tensor: Tensor) -> str:
    return f"{name} {list(tensor.shape)} {name_of(tensor.dtype)}"


def tables(module: nn.Module) -> Iterator[Table]:
    """The bias tables of a module itself, known by their names and by the module's class."""
    library = type(module).__module__.partition(".")[0]
    read_by = _NOT_INDEXED.get((library, type(module).__name__), "index")
    for name, table in module.named_parameters(recurse=False):
        if _TABLE_NAME.search(name) and table.dim() >= 2:
            heads = table.shape[0 if name == "attention_biases" else -1]  # LeViT's is [heads, offsets]
            fix = "" if "bias" in name else _NO_OP
            yield Table(name, describe(name, table), table, read_by, heads, table.numel() // heads, fix)
    for name, child in module.named_children():
        if _TABLE_NAME.search(name) and isinstance(child, nn.Embedding):
            is_t5 = re.search("attention_bias|attn", name)
            fix = "posenc_ext.nn.T5RelativePositionBias" if is_t5 else _NO_OP
            what = describe(f"{name}.weight", child.weight)
            yield Table(name, what, child.weight, "embedding", child.embedding_dim, child.num_embeddings, fix)
        elif re.fullmatch(r"rel\w*_bias", name) and isinstance(child, nn.Linear):  # LayoutLM
            what, fix = (
                describe(f"{name}.weight", child.weight),
                "posenc_ext.gather_bias(weight.t(), buckets)",
            )
            yield Table(name, what, child.weight, "index", child.out_features, child.in_features, fix)
        elif "mlp" in name and any(True for _ in indices(module)):  # Swin v2: the result is indexed
            for last in [layer for layer in child.modules() if isinstance(layer, nn.Linear)][-1:]:
                what = f"result of {name}, {last.out_features} heads, {name_of(last.weight.dtype)}"
                fix = "posenc_ext.nn.LogCoordinatePositionBias"
                yield Table(name, what, last.weight, "index", last.out_features, 0, fix)


def indices(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The index buffers of a module itself, and index tensors among its plain attributes."""
    own = dict(module.named_buffers(recurse=False)) | {
        name: value for name, value in vars(module).items() if isinstance(value, Tensor)
    }
    for name, tensor in own.items():
        if _INDEX_NAME.search(name) and not tensor.is_floating_point() and tensor.numel() > 1:
            yield name, tensor


@functools.cache
def _windows(cells: int, rows: int) -> list[tuple[list[int], int]]:
    """The windows of 1 to 3 axes with that many cells and table rows, and whether they have a class token."""
    found = []
    for prefix in (0, 1):
        tokens, offsets = cells - prefix, rows - 3 * prefix
        for a in (d for d in range(1, tokens + 1) if tokens % d == 0):
            for b in (d for d in range(1, tokens // a + 1) if tokens // a % d == 0):
                c = tokens // a // b
                if (2 * a - 1) * (2 * b - 1) * (2 * c - 1) == offsets:
                    found.append(([s for s in (a, b, c) if s > 1] or [1], prefix))
    return found


def check_index(index: Tensor, table: Optional[Table]) -> Finding:
    """What there is to say of the index of a bias table."""
    flat = index.detach().to("cpu", torch.int64).flatten()
    size = f"{index.numel() * index.element_size():,} bytes"
    low, high = int(flat.min()), int(flat.max())
    rows = table.rows if table is not None and table.rows else high + 1
    if low < 0 or high >= rows:
        finding = f"indices must be in [0, {rows - 1}], found [{low}, {high}]: the buffer was not filled"
        return Finding(finding, "error", "posenc_ext.window_bias, which needs no index, or fill the buffer")
    side = math.isqrt(flat.numel())
    for window, prefix in _windows(side, rows) if side**2 == flat.numel() else []:
        call = f"posenc_ext.window_bias(table, {window}{', prefix_tokens=1' if prefix else ''})"
        call = table.fix if table is not None and table.fix else call
        if torch.equal(flat, window_index(window, window, prefix).flatten()):
            return Finding(f"{size} for an index that the window {window} determines", "info", call)
        if len(window) == 2 and not prefix:
            axes = [window_index([s], [s]) for s in window]
            wrong = axes[0][:, None, :, None] * (2 * window[0] - 1) + axes[1][None, :, None, :]
            if torch.equal(flat, wrong.flatten()):
                finding = (
                    f"offsets share rows: row stride {2 * window[0] - 1} instead of {2 * window[1] - 1}, "
                )
                finding += f"{len(flat.unique())} of {rows} rows are used"
                return Finding(finding, "error", call)
    return Finding(
        f"{size} for an index of no known window", "info", "posenc_ext.gather_bias with this index"
    )


@functools.cache
def cut(cls: type) -> frozenset[str]:
    """Attributes of self that the source of a class reads only without gradient: in no_grad or detached."""
    read, cut_off = set(), set()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in ("builtins", "torch"):
            continue
        try:
            functions = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        except (OSError, TypeError, SyntaxError):
            continue
        for function in functions:
            if isinstance(function, ast.FunctionDef) and not re.match(
                r"__init__|_?init|_?reset", function.name
            ):
                without = [part for node in ast.walk(function) if _cuts(node) for part in ast.walk(node)]
                cut_off.update(_attributes(without))
                read.update(_attributes(set(ast.walk(function)).difference(without)))
    return frozenset(cut_off - read)


def _cuts(node: ast.AST) -> bool:
    """Whether a node of the source of a class computes without gradient."""
    if isinstance(node, ast.With):
        return any("no_grad" in ast.unparse(item.context_expr) for item in node.items)
    if isinstance(node, ast.FunctionDef):
        return any("no_grad" in ast.unparse(decorator) for decorator in node.decorator_list)
    return isinstance(node, ast.Attribute) and node.attr in ("detach", "data")


def _attributes(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The names that are read from self, as in self.name."""
    for node in nodes:
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            yield node.attr


@functools.cache
def _gradient_error(read_by: str, rows: int, heads: int, count: int, dtype: torch.dtype) -> float:
    """The relative error of torch's gradient of a table of half precision on the CPU, for random terms."""
    generator = torch.Generator().manual_seed(0)
    heads = max(1, min(heads, _MEASURED_TERMS // count))
    index = torch.randint(rows, (count,), generator=generator)
    terms = torch.randn(count, heads, generator=generator).to(dtype)
    table = torch.zeros(rows, heads, dtype=dtype, requires_grad=True)
    with torch.enable_grad():
        read = nn.functional.embedding(index, table) if read_by == "embedding" else table[index]
        (gradient,) = torch.autograd.grad(read, table, terms)
    exact = torch.zeros(rows, heads, dtype=torch.float64).index_add_(0, index, terms.double())
    return ((gradient.double() - exact).norm() / exact.norm()).item()


def check_gradient(table: Table, index: Optional[Tensor], fix: str) -> Optional[Finding]:
    """What is wrong with the gradient that torch computes for a table, or None."""
    dtype = table.parameter.dtype
    if table.read_by == "matmul":
        return None
    # Without an index buffer, the number of pairs depends on the batch: 512 queries and keys stand for it.
    count = index.numel() if index is not None else 512 * 512
    if dtype in HALF:
        rows = table.rows or int(index.max()) + 1
        error = _gradient_error(table.read_by, rows, table.heads, min(count, _MEASURED_TERMS), dtype)
        finding = f"the gradient is summed in {name_of(dtype)}: relative error {error:.1e} on the CPU"
        finding += f" for {count:,} random terms per head"
        return Finding(finding, "error" if error > 0.05 else "warning", fix)
    # On CUDA, index_put_ sorts the terms.
    if table.read_by == "index" and dtype == torch.float32 and table.parameter.device.type == "cpu":
        terms = f": {count * table.heads:,} terms" if index is not None else ""
        if count * table.heads >= _GRAIN:
            finding = (
                f"the gradient is summed in no fixed order{terms}, added atomically by the CPU's threads"
            )
            return Finding(finding, "warning", fix)
    return None


def check_alibi(module: nn.Module) -> Optional[Finding]:
    """What is wrong with ALiBi where transformers computes it in half precision, or None."""
    is_falcon = type(module).__name__ == "FalconModel"
    if is_falcon and not module.use_alibi:
        return None
    dtype = torch.bfloat16 if is_falcon else next(module.parameters()).dtype
    if dtype not in HALF:
        return None
    exact = alibi_slopes(module.num_heads, dtype=torch.float64)[:, None] * torch.arange(2048)
    error = (exact.to(dtype).double() - exact).abs().max().item()
    finding = (
        f"slope * position is rounded to {name_of(dtype)}: off by up to {error:.2g} at 2048 keys, where the "
    )
    finding += f"bias of the nearest two keys differs by {alibi_slopes(module.num_heads).max():.2g}"
    return Finding(finding, "error", "posenc_ext.alibi_bias_softmax or nn.AlibiBias in float32")
