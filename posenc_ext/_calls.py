"""Fast calls of the ops from Python."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

Arguments = ParamSpec("Arguments")


def forwards_given_arguments(
    *wider: str,
) -> Callable[[Callable[Arguments, Tensor]], Callable[Arguments, Tensor]]:
    """Forwards a call directly to the op, with only the arguments that the caller passed.

    torch.ops parses every argument it is given, even one that equals its default. Leaving those out makes a
    call on 64 elements take 1.9 us instead of 3.8 us (add_position_embedding), and a 7 x 7 window_bias 3.1 us
    instead of 3.9 us. The decorated function itself is called if an argument named in `wider` is passed (the
    function accepts more types for it than the op), if there are more positional arguments than the op
    accepts, and under torch.compile. TorchScript ignores the decorator.
    """

    def decorate(function: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
        op = getattr(torch.ops.posenc_ext, function.__name__).default
        arguments = op._schema.arguments
        required = sum(not argument.has_default_value() for argument in arguments)
        names = [argument.name for argument in arguments]
        # keywords[n]: the names that may be passed by keyword after n positional arguments.
        keywords = []
        for count, argument in enumerate([*arguments, None]):
            keywords.append(frozenset(names[count:]) - set(wider))
            if argument is None or argument.kwarg_only or argument.name in wider:
                break

        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> Tensor:
            count = len(args)
            if (
                count < len(keywords)
                and count + len(given) >= required
                and given.keys() <= keywords[count]
                and not is_dynamo_compiling()
            ):
                return op(*args, **given)
            return function(*args, **given)

        return call

    return decorate
