"""The two pictures of docs/performance.md: ratios of a run, and errors of sinusoids against position."""

from pathlib import Path

import matplotlib
import numpy as np
import report
import torch
from cases import rates
from report import Result, ratio

import posenc_ext

matplotlib.use("svg")
# The same numbers give the same file, with text as text.
matplotlib.rcParams |= {
    "svg.hashsalt": "posenc_ext",
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.grid": True,
}
import matplotlib.pyplot as plt  # noqa: E402

DIM = 512
COLORS = {"eager": "tab:red", "best eager": "tab:orange", "torch.compile": "tab:green"}


def save(figure, path: Path) -> None:
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    lines = (line.rstrip() for line in path.read_text().splitlines())  # matplotlib leaves trailing blanks
    path.write_text("\n".join(lines) + "\n")


def ratios(results: list[Result], path: Path) -> None:
    """How many times faster posenc_ext is, on all threads."""
    shown = [r for r in report.in_table(results) if r["threads"] == max(r["threads"] for r in results)]
    names = [name for name in COLORS if name in shown[0]["seconds"]]
    figure, ax = plt.subplots(figsize=(8, 0.3 * len(shown) + 1))
    height = 0.8 / len(names)
    for i, name in enumerate(names):
        values = [ratio(result, name) or 0 for result in shown]
        places = np.arange(len(shown)) + (i - (len(names) - 1) / 2) * height
        ax.barh(places, values, height, label=f"than {name}", color=COLORS[name])
    ax.set_xscale("log")
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set_yticks(range(len(shown)), [report.row(result) for result in shown])
    ax.set_xlabel(f"times faster, {shown[0]['threads']} threads")
    ax.invert_yaxis()
    ax.legend()
    save(figure, path)


def errors() -> tuple[list[int], dict[str, np.ndarray]]:
    """Positions, and the largest errors there of float32 sinusoids."""
    positions = 2 ** torch.arange(25)
    exponent = np.arange(0, DIM, 2, dtype=np.longdouble) / DIM  # 64 bits suffice: half an ulp is 2^-25
    exact = positions.numpy().astype(np.longdouble)[:, None] * np.longdouble(10000) ** -exponent
    angles = positions[:, None].float() * rates(DIM, "cpu")
    made = {
        "float32 arithmetic": torch.stack([angles.sin(), angles.cos()], -1),
        "posenc_ext": posenc_ext.sinusoidal(positions, DIM).view(*angles.shape, 2),
    }
    true = np.stack([np.sin(exact), np.cos(exact)], -1)
    largest = {name: np.abs(values.numpy() - true).max((1, 2)) for name, values in made.items()}
    return positions.tolist(), largest


def draw(results: list[Result], folder: Path) -> None:
    ratios(results, folder / "ratios.svg")
    positions, largest = errors()
    figure, ax = plt.subplots(figsize=(7, 3.5))
    for (name, values), color in zip(largest.items(), ("tab:red", "tab:blue")):
        ax.loglog(positions, values, marker=".", label=name, color=color)
    ax.axhline(2.0**-25, color="black", linestyle="--", label="half an ulp below 1")
    ax.set_xscale("log", base=2)
    ax.set_xlabel("position")
    ax.set_ylabel(f"largest error, dim {DIM}")
    ax.legend()
    save(figure, folder / "errors.svg")
