"""What posenc_ext has to reach: `python bench/report.py --targets` holds a result against every line.

A bound has a value for one thread and one for all; None: no such claim.
"""

from collections.abc import Callable
from dataclasses import dataclass

import measures

# work: the cases that measure it, for run.py --only
WORK = {
    "tables of 10 MB and more": "^table (5000x512|131072x128), forward, float32",
    "tables, concat layout": "^table .*concat, forward, float32",
    "table 512x512": "^table 512x512, forward, float32",
    "timesteps": "^timesteps .*float32",
    "add, p=0": "^add 512x32x512 length first, p=0, forward, float32",
    "add, p=0.1": "^add 512x32x512 length first, p=0.1, (forward|both), float32",
    "ViT add, B=64": "^ViT add, B=64.*(forward, float32|backward)",
    "window 7x7": "^window 7x7.*(forward|backward|adjoint op), float32",
    "window 12x12": "^window 12x12.*(forward|backward), float32",
    "window 16x16": "^window 16x16.*(forward|backward), float32",
    "window 32x32": "^window 32x32.*(forward|backward), float32",
    "expand": "^expand.*float32",
    "T5 2048x2048": "^T5 2048.*float32",
    "T5 decode": "^T5 decode.*float32",
    "call overhead": "^call overhead, add_position_embedding",
    "exactness": "",
    "never slower": "",
    "AVX2": "",
}

Bound = tuple[float | None, float | None]


@dataclass(frozen=True)
class Target:
    """A quantity of a case that has to be at least, or at most, the bound."""

    work: str  # of WORK
    case: str  # its name
    quantity: str  # in words
    measure: Callable[[dict], float | None]  # of a result
    bound: Bound
    at_most: bool = False
    unit: str = "x"  # x, %, us
    at_limit: Callable[[dict], float | None] = lambda result: (
        None
    )  # what would be measured of a perfect kernel


def faster(work: str, case: str, one: float | None, all_: float | None, than: str = "eager") -> Target:
    words = f"times faster than {than}"
    return Target(
        work,
        case,
        words,
        lambda r: measures.ratio(r, than, "posenc_ext"),
        (one, all_),
        at_limit=lambda r: measures.ratio_at_limit(r, than),
    )


def limit(work: str, case: str, kind: str, one: float, all_: float, *, out: bool = False) -> Target:
    """Share of the memory's limit; `out`: of the call with out=."""
    who = "posenc_ext out=" if out else "posenc_ext"
    words = f"of the {kind} limit{' (out=)' if out else ''}"
    return Target(work, case, words, lambda r: measures.share_of_limit(r, who), (one, all_), unit="%")


def tables() -> list[Target]:
    found = []
    for case in ("5000x512", "131072x128"):
        name = f"table {case}, forward, float32"
        found.append(faster("tables of 10 MB and more", name, 20, 11))
        found.append(limit("tables of 10 MB and more", name, "fill", 0.9, 0.9, out=True))
    for case in ("5000x512 concat", "5000x1024 concat"):
        name = f"table {case}, forward, float32"
        found.append(limit("tables, concat layout", name, "fill", 0.9, 0.9, out=True))
    found.append(faster("table 512x512", "table 512x512, forward, float32", 10, 10))
    found.append(faster("timesteps", "timesteps N=4, D=320, forward, float32", 10, 10))
    found.append(faster("timesteps", "timesteps N=4096, D=320, forward, float32", 9, 9))
    return found


def adds() -> list[Target]:
    plain = "add 512x32x512 length first, p=0, forward, float32"
    dropout = "add 512x32x512 length first, p=0.1, {}, float32"
    found = [
        faster("add, p=0", plain, 2, 2),
        limit("add, p=0", plain, "copy", 0.9, 0.9, out=True),
        faster("add, p=0", plain, 1, 1, than="best eager"),
        faster("add, p=0.1", dropout.format("forward"), 20, 38),
        limit("add, p=0.1", dropout.format("forward"), "copy", 0.65, 0.65),
        faster("add, p=0.1", dropout.format("both"), 9, 12),
    ]
    vit = "ViT add, B=64, 196x768, {}, {}"
    forward, backward = vit.format("forward", "float32"), vit.format("backward", "float32")
    half = vit.format("backward", "bfloat16")
    found += [
        faster("ViT add, B=64", forward, 2, 2),
        limit("ViT add, B=64", forward, "copy", 0.83, 0.83, out=True),
    ]
    found += [
        faster("ViT add, B=64", backward, 1.6, 1.6),
        limit("ViT add, B=64", backward, "read", 0.77, 0.77),
    ]
    return [*found, faster("ViT add, B=64", half, 2.7, 2.7), limit("ViT add, B=64", half, "read", 0.77, 0.77)]


def windows() -> list[Target]:
    found = []
    for heads in (3, 6, 12, 24):
        name, work = f"window 7x7, {heads} heads", "window 7x7"
        found.append(faster(work, f"{name}, forward, float32", 6, 6))
        found.append(faster(work, f"{name}, forward, float32", 2, 2, than="best eager"))
        found.append(faster(work, f"{name}, backward, float32", 3.5, 3.5))
        found.append(faster(work, f"{name}, adjoint op, float32", 3.5, 3.5, than="best eager"))
    for size, heads, forward, backward in (
        (12, 12, (15, 15), (6, 25)),
        (16, 4, (25, 25), (9, 45)),
        (32, 16, (15, 15), (11, 45)),
    ):
        name = f"window {size}x{size}, {heads} heads"
        found.append(faster(f"window {size}x{size}", f"{name}, forward, float32", *forward))
        found.append(faster(f"window {size}x{size}", f"{name}, backward, float32", *backward))
    name = "window 32x32, 16 heads"
    found.append(limit("window 32x32", f"{name}, forward, float32", "fill", 1.0, 1.0, out=True))
    found.append(limit("window 32x32", f"{name}, backward, float32", "read", 0.63, 0.8))
    name = "expand 16x16 to 112x112, 4 heads"
    found.append(faster("expand", f"{name}, forward, float32", 4.5, 4.5))
    found.append(limit("expand", f"{name}, forward, float32", "fill", 1.0, 1.0, out=True))
    found.append(faster("expand", f"{name}, forward, float32", 1.5, 1.5, than="best eager"))
    found.append(faster("expand", f"{name}, backward, float32", 10, 8))
    return [*found, limit("expand", f"{name}, backward, float32", "read", 0.65, 0.85)]


def t5() -> list[Target]:
    name = "T5 2048x2048, 12 heads"
    return [
        faster("T5 2048x2048", f"{name}, forward, float32", 5.3, 5.3),
        faster("T5 2048x2048", f"{name}, forward, float32", 1.4, 1.4, than="cached buckets"),
        faster("T5 2048x2048", f"{name}, backward, float32", 24, 33),
        limit("T5 2048x2048", f"{name}, backward, float32", "read", 0.7, 0.85),
        faster("T5 decode", "T5 decode k=512, 12 heads, forward, float32", 10, 10),
        faster("T5 decode", "T5 decode k=4096, 12 heads, forward, float32", 8, 8),
    ]


TARGETS = [*tables(), *adds(), *windows(), *t5()]


@dataclass(frozen=True)
class Verdict:
    """A target at one number of threads, and what was measured; None: not in this file."""

    target: Target
    threads: str  # 1 or all
    bound: float
    measured: float | None
    at_limit: float | None = None

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.bound if self.target.at_most else self.measured >= self.bound


def verdicts(record: dict) -> list[Verdict]:
    """Every target for one thread and for all threads of a JSON record, and what is not of one case."""
    results = {(r["case"], r["threads"]): r for r in record["results"]}
    found = []
    for target in TARGETS:
        for threads, words, bound in (
            (1, "1", target.bound[0]),
            (max(record["threads"]), "all", target.bound[1]),
        ):
            if bound is not None and threads in record["threads"]:
                result = results.get((target.case, threads))
                measured, most = (result and f(result) for f in (target.measure, target.at_limit))
                found.append(Verdict(target, words, bound, measured, most))
    return [*found, *overhead(record), *exactness(record), *never_slower(record), *levels(record)]


def special(work: str, case: str, words: str, unit: str, at_most: bool = False) -> Target:
    """A target whose measure takes more than one result."""
    return Target(work, case, words, lambda r: None, (None, None), at_most, unit)


def overhead(record: dict) -> list[Verdict]:
    """What a call of 64 elements costs, on one thread, beside torch.add in the same run."""
    name = "call overhead, add_position_embedding, 64 elements, {}, float32"
    results = {r["case"]: r for r in record["results"] if r["threads"] == 1}
    plain, grad, both = (
        results.get(name.format(mode)) for mode in ("no grad", "grad forward", "forward+backward")
    )
    us = [r and measures.seconds(r, "posenc_ext op") * 1e6 for r in (plain, grad)]
    more = us[1] - us[0] if all(us) else None
    share = both and measures.ratio(both, "posenc_ext op", "torch.add")
    no_grad, with_grad, ratio = (
        special("call overhead", name.format(mode), words, unit, at_most=True)
        for mode, words, unit in (
            ("no grad", "a call", "us"),
            ("grad forward", "more with a gradient", "us"),
            ("forward+backward", "of torch.add's time", "%"),
        )
    )
    return [
        Verdict(no_grad, "1", 2.2, us[0]),
        Verdict(with_grad, "1", 0.5, more),
        Verdict(ratio, "1", 1.0, share),
    ]


def exactness(record: dict) -> list[Verdict]:
    """Rounding of sampled values of sinusoidal_table."""
    measured = record["accuracy"] if isinstance(record["accuracy"], dict) else None
    share = measured and 1 - measured["table_misrounded"] / measured["samples"]
    ulp = measured and measured["table_largest_ulp"]

    return [
        Verdict(special("exactness", "", "of table values correctly rounded", "%"), "-", 0.99999, share),
        Verdict(special("exactness", "", "largest error", "ulp", at_most=True), "-", 0.501, ulp),
    ]


def never_slower(record: dict) -> list[Verdict]:
    """The best eager form, in every case that has one."""
    found = []
    for result in record["results"]:
        speed = measures.ratio(result, "best eager", "posenc_ext")
        if speed is not None:
            threads = "1" if result["threads"] == 1 else "all"
            target = special("never slower", result["case"], "times faster than best eager", "x")
            found.append(Verdict(target, threads, 1.0, speed, measures.ratio_at_limit(result, "best eager")))
    return found


def levels(record: dict) -> list[Verdict]:
    """AVX2 against AVX-512, where memory bounds the work: results that move 4 MiB and more."""
    found = []
    for result in record["results"]:
        if result["limit"] is None or result["reads"] + result["writes"] < 4 << 20:
            continue
        for name in ("posenc_ext out=", "posenc_ext"):
            fast, slow = (f"{name} [POSENC_CPU_ISA={level}]" for level in ("avx512", "avx2"))
            speed = measures.ratio(result, fast, slow)
            if speed is not None:
                words = f"of the AVX-512 speed{' (out=)' if name.endswith('out=') else ''}"
                threads = "1" if result["threads"] == 1 else "all"
                found.append(Verdict(special("AVX2", result["case"], words, "%"), threads, 0.85, speed))
                break
    return found
