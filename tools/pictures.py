"""Draws the pictures of docs/ from runs of the library: python tools/pictures.py [NAME...]"""

import sys
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "bench"), str(ROOT / "examples")]
import accuracy  # noqa: E402
import plain_positions  # noqa: E402
from plots import COLORS, plt, save  # noqa: E402

import posenc_ext  # noqa: E402
from posenc_ext import plot  # noqa: E402

FOLDER = ROOT / "docs" / "pictures"
SOURCES = {"plain PyTorch": plain_positions, "posenc_ext": posenc_ext.nn}
COLORS = {"plain PyTorch": COLORS["eager"], "posenc_ext": "tab:blue"}


def gradient_error():
    """bfloat16: the largest relative error of a table's gradient, for windows of several sizes."""
    sizes = (2, 4, 7, 8, 12, 14, 16, 24, 32)
    torch.manual_seed(0)
    errors = zip(*(accuracy.bias_gradient_errors((size, size), 4) for size in sizes))
    figure, ax = plt.subplots(figsize=(7, 3.5))
    for (name, color), values in zip(COLORS.items(), errors):
        ax.plot(sizes, values, marker=".", label=name, color=color)
    ax.axhline(2.0**-8, color="black", linestyle="--", label="one rounding to bfloat16")
    ax.set_yscale("log")
    ax.set_xlabel("side of the window: the largest sums have side² terms")
    ax.set_ylabel("largest relative error")
    ax.legend()
    return figure


def determinism():
    """float32: how much of a table's gradient changes from run to run, and with the number of threads."""
    torch.manual_seed(0)
    upstream, window, runs = torch.randn(1, 3, 1024, 1024), (32, 32), 8
    threads = [count for count in (1, 2, 4, 8) for _ in range(runs)]
    figure, ax = plt.subplots(figsize=(7, 3.5))
    for name, source in SOURCES.items():
        gradients = []
        for count in threads:
            torch.set_num_threads(count)
            gradients.append(accuracy.bias_gradient(source.WindowRelativePositionBias(window, 3), upstream))
        changed = [(gradient != gradients[0]).double().mean().item() for gradient in gradients]
        ax.plot(range(len(threads)), changed, "o", label=name, color=COLORS[name], markersize=4)
    for start in range(runs, len(threads), runs):
        ax.axvline(start - 0.5, color="gray", linewidth=0.8)
    ax.set_xticks(
        [start + (runs - 1) / 2 for start in range(0, len(threads), runs)],
        [f"{count} thread{'s' * (count > 1)}" for count in threads[::runs]],
    )
    ax.grid(axis="x", visible=False)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.set_ylim(-0.05, 1)
    ax.set_xlabel(f"{runs} runs each")
    ax.set_ylabel("elements that differ from the first run")
    ax.legend()
    return figure


def heat_maps(titles: list[str], matrices: list[torch.Tensor], x: str, y: str):
    with plt.rc_context({"axes.grid": False}):
        figure, axes = plt.subplots(1, len(matrices), figsize=(8, 3), layout="constrained")
        for ax, title, matrix in zip(axes, titles, matrices):
            ax.imshow(matrix, cmap="PuOr")
            ax.set(title=title, xlabel=x, ylabel=y)
            ax.locator_params(integer=True)
    return figure


def resampled():
    """A channel of a position embedding, resampled to two other grids."""
    embedding = posenc_ext.sinusoidal_grid([14, 14], 64)[None]
    grids = [[14, 14], [16, 24], [7, 7]]
    resample = partial(posenc_ext.resample_position_embedding, embedding, prefix_tokens=0)
    channels = [resample(grid).view(*grid, -1)[..., [3, 35]].prod(-1) for grid in grids]
    return heat_maps([f"{height} x {width}" for height, width in grids], channels, "column", "row")


def any_index():
    """Words on the lines of a page: an index by the distance of their left edges, and the bias of a table."""
    torch.manual_seed(0)
    left = torch.rand(6, 8).sort(1).values.flatten()
    index = ((left[None] - left[:, None]) * 8).round().long() + 8
    bias = posenc_ext.gather_bias(torch.randn(17, 1), index)[0]
    return heat_maps(["index, from the data", "bias of a random table"], [index, bias], "key", "query")


def family(name: str):
    with plt.rc_context({"axes.grid": False}):
        return plot.draw(name)


PICTURES = {
    "gradient-error": gradient_error,
    "determinism": determinism,
    "resampled": resampled,
    "any-index": any_index,
}
PICTURES |= {name: partial(family, name) for name in plot.NAMES}


def main(names: list[str]) -> None:
    for name in names or PICTURES:
        save(PICTURES[name](), FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
