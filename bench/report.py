"""Tables and plots of a JSON file of benchmarks: report.py [FILE] [--targets | --choices | --write]

Prints a markdown table of every result. --targets: each bound that posenc_ext has to keep, what was measured,
and by how much it is missed. --choices: what bench/choices.py measured. --write: draws bench/plots and renews
the generated parts of README.md and bench/README.md.
"""

import argparse
import json
from pathlib import Path

import choices
import measures
import settings
import targets

BENCH = Path(__file__).resolve().parent
README = BENCH.parent / "README.md"
BEGIN, END = "<!-- begin: python bench/report.py --write -->\n", "<!-- end -->\n"

# title, direction: the rows of README.md, float32
ROWS = (
    ("table 5000x512", "forward"),
    ("timesteps N=4096, D=320", "forward"),
    ("add 512x32x512 length first, p=0", "forward"),
    ("add 512x32x512 length first, p=0.1", "both"),
    ("ViT add, B=64, 196x768", "forward"),
    ("ViT add, B=64, 196x768", "backward"),
    ("window 7x7, 12 heads", "forward"),
    ("window 7x7, 12 heads", "backward"),
    ("window 32x32, 16 heads", "forward"),
    ("window 32x32, 16 heads", "backward"),
    ("expand 16x16 to 112x112, 4 heads", "forward"),
    ("expand 16x16 to 112x112, 4 heads", "backward"),
    ("T5 2048x2048, 12 heads", "forward"),
    ("T5 2048x2048, 12 heads", "backward"),
    ("T5 decode k=4096, 12 heads", "forward"),
    ("any index 2x512x512, 12 heads", "forward"),
    ("any index 2x512x512, 12 heads", "backward"),
    ("ALiBi 512x512, 12 heads", "forward"),
)

# In words: the case.
NAMES = {f"{title}, {direction}": f"{title}, {direction}, float32" for title, direction in ROWS}
LIBRARIES = ("diffusers", "timm", "transformers")


def by_case(record: dict) -> dict[str, dict[int, dict]]:
    """Case name: threads: result."""
    found: dict[str, dict[int, dict]] = {}
    for result in record["results"]:
        found.setdefault(result["case"], {})[result["threads"]] = result
    return found


def shown_rows(record: dict) -> list[tuple[str, dict[int, dict]]]:
    cases = by_case(record)
    return [(words, cases[name]) for words, name in NAMES.items() if name in cases]


def time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    value, unit = (seconds * 1e3, "ms") if seconds >= 1e-3 else (seconds * 1e6, "us")
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def times_faster(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.3g}x" if ratio < 10 else f"{ratio:.0f}x"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def setting(record: dict) -> str:
    """Machine, regime and date, in words."""
    caches = ", ".join(f"{name} {size >> 10} KiB" for name, size in record["caches"].items())
    regimes = {"R": "R (recycled memory)", "D": "D (the allocator as it comes)"}
    threads = " and ".join(map(str, record["threads"]))
    return (
        f"{record['cpu']}, {record['cores']} cores ({caches}), CPU level {record['cpu_level']}; "
        f"torch {record['torch']}; regime {regimes[record['regime']]}, "
        f"{threads} threads; {record['date']}; `{record['command']}`"
    )


def short_table(record: dict) -> str:
    """The table of README.md: one thread / all threads."""
    lines = [
        "| float32 | posenc_ext | times faster than eager | than the best eager | of the memory's limit |",
        "|---|--:|--:|--:|--:|",
    ]
    for words, results in shown_rows(record):
        per_thread = [results[threads] for threads in record["threads"]]

        def cell(measure, results=per_thread) -> str:
            return " / ".join(measure(r) for r in results)

        columns = [
            cell(lambda r: time(measures.seconds(r, "posenc_ext"))),
            cell(lambda r: times_faster(measures.ratio(r, "eager", "posenc_ext"))),
            cell(lambda r: times_faster(measures.ratio(r, "best eager", "posenc_ext"))),
            cell(lambda r: percent(measures.share_of_limit(r, "posenc_ext out=", "posenc_ext"))),
        ]
        lines.append(f"| {words} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def others_table(record: dict) -> str:
    """The rows of README.md beside torch.compile and the libraries' own classes."""
    head = ["float32", "eager", "best eager", "torch.compile", "library", "posenc_ext"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'--:|' * 5}"]
    for words, results in shown_rows(record):
        per_thread = [results[threads] for threads in record["threads"]]
        names = [(name,) for name in head[1:]]
        names[3] = LIBRARIES
        cells = [" / ".join(time(measures.seconds(r, *any_of)) for r in per_thread) for any_of in names]
        which = [name for name in LIBRARIES if name in per_thread[0]["seconds"]]
        cells[3] = f"{which[0]} {cells[3]}" if which else "–"
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def full_table(record: dict) -> str:
    """Every result: medians with quartiles, in microseconds."""
    lines = ["| case | threads | contender | median, us | quartiles | ratio | of the limit |"]
    lines.append("|---|--:|---|--:|--:|--:|--:|")
    for result in record["results"]:
        first = next(iter(result["seconds"]))
        for name, each in result["seconds"].items():
            quartiles = f"{each['q1'] * 1e6:.4g} – {each['q3'] * 1e6:.4g}"
            numbers = [
                f"{each['median'] * 1e6:.4g}",
                quartiles,
                times_faster(measures.ratio(result, first, name)),
            ]
            numbers.append(percent(measures.share_of_limit(result, name)))
            lines.append(f"| {result['case']} | {result['threads']} | {name} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def gains(choice: choices.Choice, record: dict) -> list[tuple[dict, str, float]]:
    """Result, contender, and how many times faster the choice is than its opposite."""
    found = []
    for result in record["results"]:
        for who in settings.OURS:
            gain = measures.ratio(result, f"{who} [{choice.other}]", f"{who} [{choice.chosen}]")
            if gain is not None:
                found.append((result, who, gain))
    return found


def choices_table(records: dict[str, dict]) -> str:
    """A line for each case and contender; `records`: by the name of the choice."""
    lines = []
    for name, record in records.items():
        choice = choices.CHOICES[name]
        lines += [f"**{choice.title}**: `{choice.chosen}` beside `{choice.other}`. {setting(record)}.\n"]
        lines += ["| case | threads | | times faster |", "|---|--:|---|--:|"]
        for result, who, gain in gains(choice, record):
            words = "out=" if who.endswith("out=") else "new result"
            lines.append(f"| {result['title']} | {result['threads']} | {words} | {gain:.2f}x |")
        lines.append("")
    return "\n".join(lines)


def amount(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured"
    digits = {"%": f"{value:.5%}" if 0.999 < value < 1 else f"{value:.0%}", "x": times_faster(value)}
    return digits.get(unit, f"{value:.3g} {unit}")


def target_table(record: dict) -> str:
    """Every bound and what was measured; of those that hold for all cases, the lowest that is met stands for
    the others that are."""
    lines = [
        "| work | threads | quantity | bound | measured | at the limit | |",
        "|---|--:|---|--:|--:|--:|---|",
    ]
    verdicts = targets.verdicts(record)
    for work in ("never slower", "AVX2"):
        met = sorted((v for v in verdicts if v.target.work == work and v.met), key=lambda v: v.measured)
        verdicts = [v for v in verdicts if v not in met[1:]]
        lines += [verdict_row(v, len(met) - 1 if v in met else 0) for v in verdicts if v.target.work == work]
        verdicts = [v for v in verdicts if v.target.work != work]
    lines[2:2] = [verdict_row(v) for v in verdicts]
    return "\n".join(lines) + "\n"


def verdict_row(verdict: targets.Verdict, others: int = 0) -> str:
    target, word = verdict.target, {None: "–", True: "met"}.get(verdict.met)
    if word is None:
        word = f"**missed by {abs(verdict.measured / verdict.bound - 1):.0%}**"
    if others:
        word += f", as by {others} others"
    bound = f"{'<=' if target.at_most else '>='} {amount(verdict.bound, target.unit)}"
    cells = [target.case or target.work, verdict.threads, target.quantity, bound]
    most = "" if verdict.at_limit is None else amount(verdict.at_limit, target.unit)
    return f"| {' | '.join([*cells, amount(verdict.measured, target.unit), most, word])} |"


def commands() -> str:
    """The command behind each row of the table of targets."""
    lines = ["| work | measured by |", "|---|---|"]
    for work, pattern in targets.WORK.items():
        only = f" --only '{pattern}'".replace("|", "\\|") if pattern else ""
        lines.append(f"| {work} | `python bench/run.py{only}` |")
    return "\n".join(lines) + "\n"


def rewrite(path: Path, text: str) -> None:
    """Puts text between the marks of a file."""
    head, begin, rest = path.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{path} has no lines {BEGIN.strip()} and {END.strip()}")
    path.write_text(head + BEGIN + text + END + tail)


def write(record: dict, readme: Path = README, bench: Path = BENCH) -> None:
    import plots

    plots.draw(record, shown_rows(record), bench / "plots")
    where = bench.relative_to(readme.parent)
    pictures = f"\n![time against size]({where}/plots/times.svg)\n\n![errors]({where}/plots/errors.svg)\n"
    words = f"One thread / all threads. {setting(record)}.\n\n"
    rewrite(readme, words + short_table(record) + pictures)
    verdicts = [v.met for v in targets.verdicts(record) if v.met is not None]
    met = f"{sum(verdicts)} of {len(verdicts)} bounds met. {setting(record)}.\n\n"
    picture = "\n![ratios](plots/ratios.svg)\n"
    rows = bench / "results" / "rows.json"
    others = json.loads(rows.read_text()) if rows.exists() else None
    if others:
        words = f"One thread / all threads. {setting(others)}.\n\n{others_table(others)}"
        picture += f"\n## Beside torch.compile and the libraries' own classes\n\n{words}"
    gains = choices_table(choices.kept(bench / "results"))
    gains = f"\n## What choices of the kernels gain: `python bench/choices.py`\n\n{gains}" if gains else ""
    rewrite(bench / "README.md", f"{commands()}\n{met}{target_table(record)}{picture}{gains}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, default=BENCH / "results" / "R.json")
    parser.add_argument("--targets", action="store_true", help="bounds, measured, met or missed by how much")
    parser.add_argument("--choices", action="store_true", help="what bench/choices.py measured")
    parser.add_argument("--write", action="store_true", help="plots, README.md and bench/README.md")
    chosen = parser.parse_args()
    if chosen.choices:
        print(choices_table(choices.kept()))
        return
    record = json.loads(chosen.file.read_text())
    if chosen.write:
        write(record)
    elif chosen.targets:
        print(f"{setting(record)}\n\n{target_table(record)}")
    else:
        print(f"{setting(record)}\n\n{short_table(record)}\n{full_table(record)}")


if __name__ == "__main__":
    main()
