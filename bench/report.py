"""What becomes of the results of run.py: bounds, tables, and the files that --write renews."""

import json
import re
import sys
from pathlib import Path

from cases import everything

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tools"))
import markdown_block  # noqa: E402, F401  (for the other programs of this folder)

PAGE = ROOT / "docs" / "performance.md"
SUMMARY = ROOT / "bench" / "results" / "summary.json"
COMMAND = "make bench"  # of the block in docs/performance.md

# The name of a case, a number of threads, and the median seconds of each contender.
Result = dict

# What holds on any machine: the cases (a pattern of their names), a contender, and the least factor by which
# posenc_ext is faster than it; for the limit, the least share of it.
BOUNDS = (
    ("", "best eager", 0.95),  # never slower; 5 % for noise
    ("^call of 64", "eager", 0.3),  # torch.add
    ("^table", "eager", 4),
    ("^timesteps", "eager", 3),
    ("^add 512x32x512 .*p=0.1, both", "eager", 3),
    ("^window 7x7", "eager", 3),
    ("^T5 decode", "eager", 5),
    ("^add 512x32x512 .*p=0, forward, float32", "limit", 0.6),
    ("^ViT add.*forward, float32", "limit", 0.6),
    ("^ViT add.*backward", "limit", 0.45),
    ("^window 32x32.*forward", "limit", 0.45),
    ("^window 32x32.*backward", "limit", 0.35),
    ("^expand.*forward", "limit", 0.6),
    ("^expand.*backward", "limit", 0.4),
    ("^T5 2048", "limit", 0.5),
    ("^any index.*forward", "limit", 0.5),
    ("^ALiBi.*forward", "limit", 0.5),
)


def row(result: Result) -> str:
    return result["case"].removesuffix(", float32")


def in_table(results: list[Result]) -> list[Result]:
    rows = {case.name for case in everything() if case.in_table}
    return [result for result in results if result["case"] in rows]


def ratio(result: Result, than: str) -> float | None:
    """How many times faster posenc_ext is than a contender; than the limit: its share of the limit."""
    seconds = result["seconds"]
    return seconds[than] / seconds["posenc_ext"] if than in seconds else None


def broken(results: list[Result]) -> list[str]:
    """The bounds that do not hold, in words."""
    return [
        f"{result['case']}, {result['threads']} threads: {found:.2f} of {than}, the bound is {least}"
        for pattern, than, least in BOUNDS
        for result in results
        if re.search(pattern, result["case"]) and (found := ratio(result, than)) is not None and found < least
    ]


def duration(seconds: float) -> str:
    value, unit = (seconds * 1e3, "ms") if seconds >= 1e-3 else (seconds * 1e6, "us")
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def factor(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}x" if value < 10 else f"{value:.0f}x"


def markdown(results: list[Result]) -> str:
    """One thread / all threads."""
    columns = {"eager": "times faster than eager", "best eager": "than the best eager"}
    columns |= {"out of place": "than out of place", "SDPA": "than SDPA"}
    columns |= {"torch.compile": "than torch.compile", "limit": "of the memory's limit"}
    columns |= {"other": "than --against"}
    columns = {name: head for name, head in columns.items() if any(name in r["seconds"] for r in results)}
    head = f"| {' | '.join(['', 'posenc_ext', *columns.values()])} |"
    lines = [head, f"|---|{'--:|' * (len(columns) + 1)}"]
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(row(result), []).append(result)
    for name, per_thread in by_name.items():
        cells = [[duration(r["seconds"]["posenc_ext"]) for r in per_thread]]
        for than in columns:
            values = [ratio(r, than) for r in per_thread]
            share = than == "limit"
            cells.append([f"{v:.0%}" if share and v is not None else factor(v) for v in values])
        lines.append(f"| {name} | {' | '.join(' / '.join(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def page_block(record: dict) -> str:
    """What --write puts into docs/performance.md."""
    results = record["results"]
    calls = [r["seconds"] for r in results if r["case"].startswith("call") and r["threads"] == 1]
    once, both = (f"{duration(c['posenc_ext'])} (`torch.add`: {duration(c['eager'])})" for c in calls)
    pictures = "![ratios](../bench/results/ratios.svg)\n\n![errors](../bench/results/errors.svg)\n"
    return (
        f"float32, one thread / all threads. {record['setting']}.\n\n{markdown(in_table(results))}\n"
        f"A call of 64 elements takes {once} on one thread, with its gradient {both}.\n\n{pictures}"
    )


def save(path: Path, record: dict) -> None:
    """JSON with a line for each result."""
    results = ",\n  ".join(json.dumps(result) for result in record["results"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"setting": {json.dumps(record["setting"])},\n "results": [\n  {results}]}}\n')
