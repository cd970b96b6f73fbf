"""Shows how far a long loop is, on stderr."""

import sys
import time
from collections.abc import Collection, Iterator
from typing import TypeVar

T = TypeVar("T")

_SECONDS_BEFORE_BAR = 2
_SECONDS_BETWEEN_LINES = 10


def progress(items: Collection[T], what: str) -> Iterator[T]:
    """Yields the items; if that takes long, shows on stderr how many are done.

    A tqdm bar where tqdm is installed and stderr is a terminal, else a line every ten seconds.

    >>> list(progress([1, 2, 3], "counting"))
    [1, 2, 3]
    """
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            yield from tqdm(items, desc=what, delay=_SECONDS_BEFORE_BAR, leave=False)
            return
    last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            print(f"{what}: {done} of {len(items)}", file=sys.stderr, flush=True)
            last = now
        yield item
