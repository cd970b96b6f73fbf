"""The plots: time against size with the limit drawn in, ratios, and errors against position."""

from pathlib import Path

import matplotlib
import measures

matplotlib.use("svg")
# The same numbers give the same file.
matplotlib.rcParams |= {"svg.hashsalt": "posenc_ext", "svg.fonttype": "none", "font.family": "sans-serif"}
matplotlib.rcParams |= {"font.size": 8, "axes.grid": True, "grid.alpha": 0.3, "figure.facecolor": "white"}
import matplotlib.pyplot as plt  # noqa: E402

PANELS = (
    "table, forward",
    "ViT add, forward",
    "window, forward",
    "T5, forward",
    "add, no dropout, forward",
    "ViT add, backward",
    "window, backward",
    "T5, backward",
)
STYLES = {
    "eager": {"color": "tab:red", "marker": "s"},
    "best eager": {"color": "tab:orange", "marker": "^"},
    "posenc_ext": {"color": "tab:blue", "marker": "o"},
    "posenc_ext out=": {"color": "tab:cyan", "marker": "."},
}


def save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    # matplotlib leaves blanks at ends of lines
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def times(record: dict, path: Path) -> None:
    """A panel per family of cases, on one thread."""
    figure, axes = plt.subplots(2, 4, figsize=(12, 5.5))
    for panel, ax in zip(PANELS, axes.flat, strict=True):
        results = [r for r in record["results"] if r["family"] == panel and r["threads"] == 1]
        results = [r for r in results if r["dtype"] == "float32"]
        results.sort(key=lambda r: r["reads"] + r["writes"])
        lines = {name: (lambda r, n=name: measures.seconds(r, n), style) for name, style in STYLES.items()}
        lines["limit of the memory"] = (measures.limit_seconds, {"color": "black", "linestyle": "--"})
        for name, (seconds, style) in lines.items():
            points = [((r["reads"] + r["writes"]) / 2**20, seconds(r)) for r in results]
            points = [(x, y * 1e3) for x, y in points if y]
            if points:
                ax.loglog(*zip(*points, strict=True), label=name, linewidth=1, markersize=4, **style)
        ax.set_title(panel)
        ax.set_xlabel("MiB read and written")
        ax.set_ylabel("ms")
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes.flat), key=lambda pair: len(pair[1]))
    axes.flat[0].legend(handles, labels, fontsize=7)
    figure.suptitle(f"{record['cpu']}, 1 thread, float32, regime {record['regime']}, {record['date'][:10]}")
    save(figure, path)


def ratios(record: dict, rows: list[tuple[str, dict[int, dict]]], path: Path) -> None:
    """How many times faster than eager and the best eager form, a panel per number of threads."""
    figure, axes = plt.subplots(1, len(record["threads"]), figsize=(12, 0.35 * len(rows) + 1.2), sharey=True)
    for threads, ax in zip(record["threads"], axes if len(record["threads"]) > 1 else [axes], strict=True):
        for offset, name in ((-0.2, "eager"), (0.2, "best eager")):
            values = [measures.ratio(results[threads], name, "posenc_ext") or 0 for _, results in rows]
            places = [y + offset for y in range(len(rows))]
            bars = ax.barh(places, values, 0.4, label=f"than {name}", color=STYLES[name]["color"])
            ax.bar_label(bars, [f"{value:.3g}" if value else "" for value in values], padding=2, fontsize=7)
        ax.set_xscale("log")
        ax.axvline(1, color="black", linewidth=0.8)
        ax.set_yticks(range(len(rows)), [words for words, _ in rows])
        ax.set_xlabel(f"times faster, {threads} thread{'s' if threads > 1 else ''}")
        ax.margins(x=0.15)
        ax.legend(loc="lower right", fontsize=7)
    (axes if len(record["threads"]) == 1 else axes[0]).invert_yaxis()
    save(figure, path)


def errors(accuracy: dict, path: Path) -> None:
    """Largest error of float32 sinusoids at each position."""
    figure, ax = plt.subplots(figsize=(7, 3.5))
    names = {"plain": ("float32 arithmetic (eager)", "eager"), "posenc_ext": ("posenc_ext", "posenc_ext")}
    for key, (label, style) in names.items():
        ax.loglog(accuracy["positions"], accuracy["errors"][key], label=label, **STYLES[style])
    ax.axhline(2.0**-25, color="black", linestyle="--", label="half an ulp below 1")
    ax.set_xscale("log", base=2)
    ax.set_xlabel("position")
    ax.set_ylabel("largest error, dim 512")
    ax.legend()
    save(figure, path)


def draw(record: dict, rows: list[tuple[str, dict[int, dict]]], folder: Path) -> None:
    times(record, folder / "times.svg")
    ratios(record, rows, folder / "ratios.svg")
    if isinstance(record["accuracy"], dict):
        errors(record["accuracy"], folder / "errors.svg")
