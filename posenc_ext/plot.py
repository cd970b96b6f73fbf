"""Draws an encoding or a bias, as posenc_ext computes it: python -m posenc_ext.plot NAME -o FILE

Needs matplotlib: ``pip install 'posenc_ext[plot]'``. The ending of FILE selects the format: png, svg, pdf.
"""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import compositions, ops

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NAMES", "draw"]

# Color maps and colors that remain distinct with every form of color blindness (the colors: Okabe and Ito).
_SIGNED, _SIZE = "PuOr", "cividis"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_STYLE = {"font.size": 9, "axes.titlesize": 10, "svg.fonttype": "none", "svg.hashsalt": "posenc_ext"}


def _heat(ax: "Axes", values: Tensor, title: str, x: str, y: str, *, bar: str = "", **options: Any) -> None:
    """A matrix as colors; ``bar`` is the label of a color bar."""
    options = {"cmap": _SIGNED, "aspect": "auto", "interpolation": "nearest"} | options
    image = ax.imshow(values.tolist(), **options)
    ax.set(title=title, xlabel=x, ylabel=y)
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_major_locator().set_params(integer=True)
    if bar:
        ax.figure.colorbar(image, ax=ax, label=bar)


def _numbers(ax: "Axes", values: Tensor) -> None:
    """Writes the values of a small matrix into its cells."""
    middle = (values.min() + values.max()) / 2
    for (row, column), value in zip(torch.cartesian_prod(*map(torch.arange, values.shape)), values.flatten()):
        color = "black" if value > middle else "white"
        ax.text(column, row, int(value), ha="center", va="center", color=color, fontsize=7)


def _sinusoidal(figure: "Figure") -> None:
    table = ops.sinusoidal_table(100, 64)
    heat, curves = figure.subplots(1, 2)
    _heat(heat, table, "sinusoidal_table(100, 64)", "channel", "position", bar="value", vmin=-1, vmax=1)
    for channel, color in zip((0, 8, 16, 32), _COLORS):
        curves.plot(table[:, channel], color=color, label=f"channel {channel}")
    curves.set(title="sines of four frequencies", xlabel="position", ylabel="value", ylim=(-1.1, 1.7))
    curves.legend(loc="upper right", ncols=2)


def _layouts(figure: "Figure") -> None:
    axes = figure.subplots(1, 3, sharey=True)
    for ax, layout in zip(axes, ("interleaved", "concat", "concat_cos_first")):
        table = ops.sinusoidal_table(64, 32, layout=layout)
        _heat(ax, table, layout, "channel", "position" if ax is axes[0] else "", vmin=-1, vmax=1)
    figure.colorbar(axes[0].images[0], ax=axes, label="value")
    figure.suptitle("sinusoidal_table(64, 32, layout=...)")


def _grid(figure: "Figure") -> None:
    grid = compositions.sinusoidal_grid([16, 24], 64).view(16, 24, 64)
    axes = figure.subplots(2, 4, sharex=True, sharey=True)
    names = ("sin x", "cos x", "sin y", "cos y")
    for i, frequency in enumerate((1, 3)):
        for block, (ax, name) in enumerate(zip(axes[i], names)):
            channel = 16 * block + frequency
            x, y = "column x" if i else "", "" if block else "row y"
            _heat(ax, grid[..., channel], f"channel {channel}: {name}", x, y, aspect="equal", vmin=-1, vmax=1)
    figure.colorbar(axes[0, 0].images[0], ax=axes, label="value")
    figure.suptitle('sinusoidal_grid([16, 24], 64, order="mae")')


def _grid_orders(figure: "Figure") -> None:
    orders = ("mae", "timm", "timm_interleaved", "positional_encodings")
    axes = figure.subplots(1, 4, sharey=True)
    for ax, order in zip(axes, orders):
        grid = compositions.sinusoidal_grid([6, 6], 32, order=order)
        _heat(ax, grid, order, "channel", "cell, row by row" if ax is axes[0] else "", vmin=-1, vmax=1)
    figure.colorbar(axes[0].images[0], ax=axes, label="value")
    figure.suptitle("sinusoidal_grid([6, 6], 32, order=...)")


def _detr(figure: "Figure") -> None:
    mask = torch.zeros(1, 24, 32, dtype=torch.bool)
    mask[:, :18, :26] = True
    encoding = compositions.detr_sine(mask, 32, normalize=True)[0]
    figure.set_size_inches(8, 3)
    axes = figure.subplots(1, 3, sharey=True)
    _heat(axes[0], mask[0].int(), "mask: 1 for the image", "column x", "row y", aspect="equal", cmap=_SIZE)
    for ax, channel, name in ((axes[1], 0, "sin y"), (axes[2], 32, "sin x")):
        title = f"channel {channel}: {name}"
        _heat(ax, encoding[channel], title, "column x", "", aspect="equal", vmin=-1, vmax=1)
    figure.colorbar(axes[1].images[0], ax=axes, label="value")
    figure.suptitle("detr_sine(mask, 32, normalize=True)")


def _timesteps(figure: "Figure") -> None:
    encoding = ops.sinusoidal(torch.arange(1000), 64, layout="concat_cos_first")
    heat, curves = figure.subplots(1, 2)
    title = 'sinusoidal(t, 64, layout="concat_cos_first")'
    _heat(heat, encoding, title, "channel: cosines, then sines", "timestep t", bar="value", vmin=-1, vmax=1)
    for channel, color in zip((12, 16, 20, 24), _COLORS):
        curves.plot(encoding[:, channel], color=color, label=f"channel {channel}")
    curves.set(title="cosines of four frequencies", xlabel="timestep t", ylabel="value", ylim=(-1.1, 1.7))
    curves.legend(loc="upper right", ncols=2)


def _window_index(window: list[int], prefix_tokens: int) -> tuple[Tensor, int]:
    """The table row of each pair, [Q, K], and the number of rows."""
    rows = 3 * prefix_tokens + torch.tensor([2 * size - 1 for size in window]).prod().item()
    return ops.window_bias(torch.arange(float(rows)).view(-1, 1), window, prefix_tokens=prefix_tokens)[
        0
    ], rows


def _window(figure: "Figure", prefix_tokens: int = 0) -> None:
    window = [3, 4]
    index, rows = _window_index(window, prefix_tokens)
    table = torch.randn(rows, 1, generator=torch.Generator().manual_seed(0))
    left, right = figure.subplots(1, 2)
    _heat(left, index, "row of the table for each pair", "key", "query", aspect="equal", cmap=_SIZE)
    _numbers(left, index)
    bias = ops.window_bias(table, window, prefix_tokens=prefix_tokens)[0]
    _heat(
        right, bias, "bias of a random table", "key", "query", aspect="equal", bar="bias", vmin=-2.5, vmax=2.5
    )
    suffix = ", prefix_tokens=1), token 0 is the class token" if prefix_tokens else ")"
    figure.suptitle(f"window_bias(table, {window}{suffix}")


def _window_prefix(figure: "Figure") -> None:
    _window(figure, prefix_tokens=1)


def _shift(figure: "Figure") -> None:
    size, window, shift = 8, 4, 2
    edge = torch.arange(size)
    part = (edge >= size - window).int() + (edge >= size - shift).int()
    regions = 3 * part[:, None] + part
    windows = regions.unfold(0, window, window).unfold(1, window, window).reshape(-1, window**2)
    scores = torch.zeros(len(windows), 1, window**2, window**2)
    rows = (2 * window - 1) ** 2
    p = ops.window_bias_softmax(scores, torch.zeros(rows, 1), [window] * 2, regions=windows)
    figure.set_size_inches(8, 3)
    left, *rest = figure.subplots(1, 3)
    _heat(left, regions, f"regions of an {size} x {size} map", "column", "row", aspect="equal", cmap=_SIZE)
    _numbers(left, regions)
    left.axhline(window - 0.5, color="white")
    left.axvline(window - 0.5, color="white")
    for ax, number, name in zip(rest, (1, 3), ("top right", "bottom right")):
        title = f"{name} window"
        _heat(ax, (p[number, 0] > 0).int(), title, "key", "query", aspect="equal", cmap=_SIZE)
    figure.suptitle(
        f"window_bias_softmax(..., regions=...), window {window}, shift {shift}: yellow pairs attend"
    )


def _t5(figure: "Figure") -> None:
    buckets = torch.arange(32.0).view(-1, 1)
    heat, curves = figure.subplots(1, 2)
    title = "t5_bias: bucket of each pair"
    _heat(
        heat,
        ops.t5_bias(buckets, 160, 160)[0],
        title,
        "key",
        "query",
        aspect="equal",
        cmap=_SIZE,
        bar="bucket",
    )
    distance = range(-160, 161)
    for bidirectional, color in zip((True, False), _COLORS):
        row = ops.t5_bias(buckets, 1, 321, q_offset=160, bidirectional=bidirectional)[0, 0]
        label = "bidirectional" if bidirectional else "causal"
        curves.step(distance, row, where="mid", color=color, label=label)
    curves.set(title="32 buckets, max_distance=128", xlabel="key - query", ylabel="bucket")
    curves.legend()


def _alibi(figure: "Figure") -> None:
    slopes = ops.alibi_slopes(8)
    bias = ops.alibi_bias(slopes, 64, 64)
    heat, curves = figure.subplots(1, 2)
    title = f"alibi_bias, head 2 of 8 (slope {slopes[2]:g})"
    _heat(heat, bias[2], title, "key", "query", aspect="equal", cmap=_SIZE, bar="bias")
    for head, color in enumerate(_COLORS):
        curves.plot(bias[head, 32], color=color, label=f"{slopes[head]:.3g}")
    curves.set(title="bias of query 32, all heads", xlabel="key", ylabel="bias", ylim=(-17, 1))
    figure.legend(title="slope", loc="outside right center")


_DRAWINGS: dict[str, Callable[["Figure"], None]] = {
    "sinusoidal": _sinusoidal,
    "layouts": _layouts,
    "grid": _grid,
    "grid-orders": _grid_orders,
    "detr": _detr,
    "timesteps": _timesteps,
    "window": _window,
    "window-prefix": _window_prefix,
    "shift": _shift,
    "t5": _t5,
    "alibi": _alibi,
}
NAMES = tuple(_DRAWINGS)


def draw(name: str) -> "Figure":
    """Draws an encoding or a bias, computed by posenc_ext on the CPU.

    Args:
        name: one of ``posenc_ext.plot.NAMES``.

    Returns:
        A matplotlib ``Figure``, 800 pixels wide and independent of pyplot.

    Raises:
        ValueError: the name is unknown.
        ImportError: matplotlib is not installed.

    >>> NAMES[:3]
    ('sinusoidal', 'layouts', 'grid')
    """
    if name not in _DRAWINGS:
        raise ValueError(f"posenc_ext.plot: name must be one of {', '.join(NAMES)}, got {name}")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("posenc_ext.plot needs matplotlib: pip install 'posenc_ext[plot]'") from None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 4), dpi=100, layout="constrained")
        _DRAWINGS[name](figure)
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m posenc_ext.plot", description="Draws an encoding or a bias."
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="a name ending in .png, .svg, ..."
    )
    arguments = parser.parse_args()
    try:
        draw(arguments.name).savefig(arguments.output)
    except (ImportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
