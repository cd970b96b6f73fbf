"""Every case, a file per family."""

from case import Case

from . import alibi_bias, gather_bias, overhead, position_embedding, sinusoidal, t5_bias, window_bias

FAMILIES = (sinusoidal, position_embedding, window_bias, t5_bias, gather_bias, alibi_bias, overhead)


def everything() -> list[Case]:
    return [case for family in FAMILIES for case in family.cases()]
