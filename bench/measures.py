"""Numbers that are read out of a result: ratios, and shares of a limit."""

# Kind of limit: its contenders. The fastest of them is the limit.
KINDS = {"fill": ("fill", "nt fill"), "copy": ("copy", "nt copy"), "read": ("sum", "read")}

# The contender of every backward: torch.autograd.grad through a node that does nothing.
AUTOGRAD = "autograd alone"


def seconds(result: dict, *names: str) -> float | None:
    """The median of the first of these contenders that took part."""
    for name in names:
        if name in result["seconds"]:
            return result["seconds"][name]["median"]
    return None


def ratio(result: dict, slow: str, *fast: str) -> float | None:
    """How many times faster the first of `fast` that took part is than `slow`."""
    a, b = seconds(result, slow), seconds(result, *fast)
    return a / b if a and b else None


def limit_seconds(result: dict) -> float | None:
    """The fastest way to move as many bytes."""
    names = KINDS.get(result["limit"], ())
    return min((result["seconds"][n]["median"] for n in names if n in result["seconds"]), default=None)


def share_of_limit(result: dict, *names: str) -> float | None:
    limit, mine = limit_seconds(result), seconds(result, *names)
    return limit / mine if limit and mine else None


def ratio_at_limit(result: dict, slow: str) -> float | None:
    """How many times faster than `slow` the memory is; in a backward also autograd, if that takes longer."""
    limit, a = limit_seconds(result), seconds(result, slow)
    return a / max(limit, seconds(result, AUTOGRAD) or 0.0) if limit and a else None
