"""Sinusoidal tables, encodings of timesteps, and the encoding added to a batch, with and without dropout."""

import math
from functools import partial

import torch
from case import Case, Contenders, Rotating, contenders, into

import posenc_ext

TABLE_FORMS = {
    "eager": "the tutorial's: pe[:, 0::2] = sin(position * rate); pe[:, 1::2] = cos(position * rate)",
    "best eager": "torch.outer once; torch.sin(angles, out=pe[:, 0::2]), torch.cos(angles, out=pe[:, 1::2])",
}
TIMESTEP_FORMS = {
    "eager": "diffusers' get_timestep_embedding",
    "best eager": "the same with cached frequencies and torch.outer",
}
ADD_FORMS = {
    "eager": "dropout(x * scale + pe[:len])",
    "best eager": "dropout(torch.add(pe, x, alpha=scale)) with a cached table",
}


def rates(dim: int) -> torch.Tensor:
    return torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))


def eager_table(length: int, dim: int, dtype: torch.dtype) -> torch.Tensor:
    position = torch.arange(length).unsqueeze(1)
    pe = torch.zeros(length, dim)
    pe[:, 0::2] = torch.sin(position * rates(dim))
    pe[:, 1::2] = torch.cos(position * rates(dim))
    return pe.to(dtype)


def eager_concat_table(length: int, dim: int, dtype: torch.dtype) -> torch.Tensor:
    angles = torch.arange(length).unsqueeze(1) * rates(dim)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1).to(dtype)


def best_table(length: int, dim: int, dtype: torch.dtype) -> torch.Tensor:
    angles = torch.outer(torch.arange(length, dtype=torch.float32), rates(dim))
    pe = torch.empty(length, dim)
    torch.sin(angles, out=pe[:, 0::2])
    torch.cos(angles, out=pe[:, 1::2])
    return pe.to(dtype)


def table(dtype: torch.dtype, length: int, dim: int, layout: str) -> Contenders:
    plain = {"eager": eager_table, "best eager": best_table}
    if layout == "concat":
        plain = {"eager": eager_concat_table}
    forms = {name: partial(form, length, dim, dtype) for name, form in plain.items()}
    forms["posenc_ext"] = partial(posenc_ext.sinusoidal_table, length, dim, layout=layout, dtype=dtype)
    call = lambda op, out: op(length, dim, layout=layout, out=out)  # noqa: E731
    return contenders("forward", forms, []) | into("sinusoidal_table", call, [], (length, dim), dtype)


def timesteps(dtype: torch.dtype, count: int, dim: int) -> Contenders:
    steps = torch.linspace(1, 999, count).round().long()
    exponent = -math.log(10000) * torch.arange(dim // 2, dtype=torch.float32) / (dim // 2)
    cached = torch.exp(exponent)

    def eager(steps):
        exponent = -math.log(10000) * torch.arange(start=0, end=dim // 2, dtype=torch.float32)
        angles = steps[:, None].float() * torch.exp(exponent / (dim // 2))[None, :]
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1).to(dtype)

    def best(steps):
        angles = torch.outer(steps.float(), cached)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)

    ours = lambda t: posenc_ext.sinusoidal(t, dim, layout="concat", dtype=dtype)  # noqa: E731
    result = contenders("forward", {"eager": eager, "best eager": best, "posenc_ext": ours}, [steps])
    diffusers = library_timesteps()
    if diffusers and dtype == torch.float32:
        result["diffusers"] = partial(diffusers, steps, dim, downscale_freq_shift=0)
    call = lambda op, t, out: op(t, dim, layout="concat", out=out)  # noqa: E731
    return result | into("sinusoidal", call, [steps], (count, dim), dtype)


def library_timesteps():
    """diffusers' function, where diffusers is installed."""
    try:
        from diffusers.models.embeddings import get_timestep_embedding
    except ImportError:
        return None
    return get_timestep_embedding


def add(
    direction: str, dtype: torch.dtype, sizes: tuple[int, int, int], batch_first: bool, p: float
) -> Contenders:
    batch, length, dim = sizes
    shape = (batch, length, dim) if batch_first else (length, batch, dim)
    pe = eager_table(length, dim, dtype)
    pe = pe if batch_first else pe.unsqueeze(1)
    scale = math.sqrt(dim)

    def eager(x):
        y = x * scale + pe
        return torch.dropout(y, p, True) if p else y

    def best(x):
        y = torch.add(pe, x, alpha=scale)
        return torch.dropout(y, p, True) if p else y

    options = {"x_scale": scale, "batch_first": batch_first, "dropout_p": p, "training": p > 0}
    forms = {"eager": eager, "best eager": best, "posenc_ext": partial(posenc_ext.add_sinusoidal, **options)}
    xs = Rotating(lambda: torch.rand(shape).add_(0.5).to(dtype))  # no zeros but those of dropout
    result = contenders(direction, forms, [xs], lambda: torch.rand(shape).add_(0.5).to(dtype))
    if direction == "forward":
        result |= into("add_sinusoidal", lambda op, x, out: op(x, **options, out=out), [xs], shape, dtype)
    return result


def add_case(direction, dtype, sizes, batch_first, p, quick=False) -> Case:
    batch, length, dim = sizes
    moved = batch * length * dim * dtype.itemsize
    order = "x".join(map(str, sizes if batch_first else (length, batch, dim)))
    return Case(
        title=f"add {order}{'' if batch_first else ' length first'}, p={p:g}",
        direction=direction,
        dtype=dtype,
        family=f"add{' batch first' if batch_first else ''}, {'dropout' if p else 'no dropout'}, {direction}",
        build=partial(add, direction, sizes=sizes, batch_first=batch_first, p=p),
        # backward reads the gradient and writes that of x
        reads=moved * (2 if direction == "both" else 1),
        writes=moved * (2 if direction == "both" else 1),
        limit="copy",
        # float32: the eager table's error, and roundings of sums up to 34; bfloat16: three roundings
        tolerance=2e-5 if dtype == torch.float32 else 2**-6,
        dropout_p=p,
        quick=quick,
        forms=ADD_FORMS,
    )


def cases() -> list[Case]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        f32 = dtype == torch.float32
        # (length, dim, layout, quick); bfloat16 only for the larger ones
        tables = [(128, 64, "interleaved", False), (512, 512, "interleaved", True)]
        tables += [(5000, 512, "interleaved", True), (5000, 512, "concat", False)]
        tables += [(5000, 1024, "concat", False), (131072, 128, "interleaved", True)]
        for length, dim, layout, quick in tables if f32 else tables[1:3]:
            found.append(
                Case(
                    title=f"table {length}x{dim}{'' if layout == 'interleaved' else ' ' + layout}",
                    direction="forward",
                    dtype=dtype,
                    family="table, forward" if layout == "interleaved" else "table concat, forward",
                    build=partial(table, length=length, dim=dim, layout=layout),
                    writes=length * dim * dtype.itemsize,
                    limit="fill",
                    tolerance=2e-7 * length + (0 if f32 else 2**-8),  # eager rounds position * rate
                    quick=quick and f32,
                    forms=TABLE_FORMS,
                )
            )
        for count in (4, 4096):
            found.append(
                Case(
                    title=f"timesteps N={count}, D=320",
                    direction="forward",
                    dtype=dtype,
                    family="timesteps, forward",
                    build=partial(timesteps, count=count, dim=320),
                    writes=count * 320 * dtype.itemsize,
                    limit="fill",
                    tolerance=2e-4 + (0 if f32 else 2**-8),  # the same, for positions up to 1000
                    quick=f32,
                    forms=TIMESTEP_FORMS,
                )
            )
        big, small = (32, 512, 512), (8, 128, 512)
        found.append(add_case("forward", dtype, big, False, 0.0, quick=f32))
        found.append(add_case("forward", dtype, big, False, 0.1, quick=f32))
        found.append(add_case("both", dtype, big, False, 0.1, quick=f32))
        found.append(add_case("forward", dtype, big, True, 0.0))
        if f32:
            found.append(add_case("backward", dtype, big, False, 0.1))
            found.append(add_case("forward", dtype, small, False, 0.0))
            found.append(add_case("forward", dtype, small, False, 0.1))
    found.append(add_case("forward", torch.float16, big, False, 0.0))
    return found
