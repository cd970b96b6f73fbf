"""The rows of the table module x machinery, its registry, and how results are compared."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from support import seed as set_seed
from torch import Tensor, nn

from posenc_ext import diagonal_bias_softmax
from posenc_ext.nn import (
    AlibiBias,
    AlibiBiasSoftmax,
    AttentionPool2d,
    LearnedPositionalEmbedding,
    LogCoordinatePositionBias,
    RelativePositionBias,
    SinusoidalPositionalEmbedding,
    SinusoidalPositionalEncoding,
    T5BiasSoftmax,
    T5RelativePositionBias,
    TimestepEmbedding,
    VisionPositionEmbedding,
    WindowBiasSoftmax,
    WindowRelativePositionBias,
)


class Applied(nn.Module):
    """A model of one tensor around a module; `gain` gives every model a parameter."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.gain = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.gain, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x) * self.gain


class BiasAdded(Applied):
    def forward(self, x: Tensor) -> Tensor:
        return (x + self.module()) * self.gain


class BiasOfLengths(Applied):
    def forward(self, x: Tensor) -> Tensor:
        return (x + self.module(x.size(-2), x.size(-1))) * self.gain


class SmallerWindow(Applied):
    """Of a window of 3 x 3."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.module([2, 3])) * self.gain


class BiasLikeScores(Applied):
    def forward(self, x: Tensor) -> Tensor:
        return (x + self.module(x.size(-2), x.size(-1), dtype=x.dtype, device=x.device)) * self.gain


class BiasOfLengthsOnDevice(Applied):
    """For a bias that may have no tensor to take a device from."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.module(x.size(-2), x.size(-1), device=x.device)) * self.gain


class BiasOfMap(Applied):
    def forward(self, x: Tensor) -> Tensor:
        return (x.mean() + self.module(x.size(-2), x.size(-1))) * self.gain


class SoftmaxOfScores(Applied):
    """Over scores that are a result of the model, as after a matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x * self.gain) * self.gain


class SoftmaxOfItsInput(Applied):
    """Not in place: FSDP2, where it shards this very module, gives it views that must not be overwritten."""

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x * self.gain, inplace=False) * self.gain


class MaskedSoftmax(Applied):
    """The last key takes no part."""

    def forward(self, x: Tensor) -> Tensor:
        shown = torch.arange(x.size(-1), device=x.device) < x.size(-1) - 1
        return self.module(x * self.gain, shown, scale=0.5, inplace=False) * self.gain


class SoftmaxOfRegions(Applied):
    def forward(self, x: Tensor) -> Tensor:
        regions = torch.arange(x.size(-1), device=x.device).unsqueeze(0) // 2
        return self.module(x * self.gain, regions=regions, inplace=False) * self.gain


class SoftmaxOfSharedDiagonals(Applied):
    """Two layers with the diagonals of one bias."""

    def forward(self, x: Tensor) -> Tensor:
        diagonals = self.module.diagonals(x.size(-2), x.size(-1), device=x.device)
        first = diagonal_bias_softmax(x * self.gain, diagonals)
        return diagonal_bias_softmax(first * x, diagonals, causal=True) * self.gain


class PositionsGiven(Applied):
    """Every sample begins at a position of its own."""

    def forward(self, x: Tensor) -> Tensor:
        first = torch.arange(x.size(0), device=x.device).unsqueeze(1)
        return self.module(x, position_ids=first + torch.arange(x.size(1), device=x.device)) * self.gain


class StartsGiven(Applied):
    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, start=torch.arange(x.size(0), device=x.device) - 1) * self.gain


class PastGiven(Applied):
    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, past_length=torch.arange(x.size(0), device=x.device)) * self.gain


class MaskGiven(Applied):
    """Padding on the left, and embeddings in place of tokens."""

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.arange(x.size(0), device=x.device).unsqueeze(1)
        mask = torch.arange(x.size(1), device=x.device) >= padding
        return (x + self.module(inputs_embeds=x, attention_mask=mask)) * self.gain


@dataclass(frozen=True)
class Row:
    """A module in one of its variants, and inputs of several sizes; the first is the native one."""

    name: str
    build: Callable[[], nn.Module]
    host: type[Applied]
    sizes: tuple[tuple[int, ...], ...]
    tokens: bool = False  # integer inputs
    frozen: bool = False  # has a parameter without a gradient

    def model(self, seed: int = 0) -> Applied:
        set_seed(seed)
        return self.host(self.build())

    def x(self, size: int = 0, dtype: torch.dtype | None = None) -> Tensor:
        set_seed(1)
        if self.tokens:
            return torch.randint(0, 5, self.sizes[size])
        return torch.randn(self.sizes[size], dtype=torch.float64).to(dtype or torch.get_default_dtype())

    def has(self, *kinds: type[nn.Module]) -> bool:
        return any(isinstance(child, kinds) for child in self.build().modules())

    def has_children(self) -> bool:
        return any(True for _ in self.build().children())


def _whisper() -> nn.Module:
    return LearnedPositionalEmbedding.from_sinusoidal(12, 8, freq_shift=1.0, layout="concat", trainable=False)


def _learned() -> nn.Module:
    return LearnedPositionalEmbedding(12, 8, offset=2, dropout=0.1)


def _classic() -> nn.Module:
    return SinusoidalPositionalEncoding(8, 0.1, batch_first=True)


SEQUENCES = ((2, 5, 8), (3, 9, 8), (1, 1, 8))
MAPS = ((2, 8, 3, 4), (3, 8, 6, 5), (2, 8, 4, 3))
SCORES = ((2, 2, 5, 5), (3, 2, 9, 7), (1, 2, 1, 4))
WINDOWS = ((2, 2, 6, 6), (3, 2, 6, 6))

ROWS = (
    Row("AlibiBias", lambda: AlibiBias(2), BiasOfLengthsOnDevice, SCORES),
    Row("AlibiBias, dtype given", lambda: AlibiBias(2), BiasLikeScores, SCORES),
    Row("AlibiBias, learnable", lambda: AlibiBias(2, learnable=True), BiasOfLengths, SCORES),
    Row("AlibiBiasSoftmax", lambda: AlibiBiasSoftmax(2, causal=True), SoftmaxOfScores, SCORES),
    Row("AlibiBiasSoftmax, learnable", lambda: AlibiBiasSoftmax(2, learnable=True), MaskedSoftmax, SCORES),
    Row("AttentionPool2d", lambda: AttentionPool2d((3, 4), 8, 2), Applied, MAPS),
    Row("LearnedPositionalEmbedding", _learned, Applied, SEQUENCES),
    Row("LearnedPositionalEmbedding.from_sinusoidal, frozen", _whisper, Applied, SEQUENCES, frozen=True),
    Row("LearnedPositionalEmbedding, position_ids", _learned, PositionsGiven, SEQUENCES),
    Row("LearnedPositionalEmbedding, past_length [B]", _learned, PastGiven, SEQUENCES),
    Row(
        "LogCoordinatePositionBias",
        lambda: LogCoordinatePositionBias((2, 3), 2, hidden_features=16),
        BiasAdded,
        WINDOWS,
    ),
    Row(
        "LogCoordinatePositionBias, window at the call",
        lambda: LogCoordinatePositionBias((3, 3), 2, hidden_features=16),
        SmallerWindow,
        WINDOWS,
    ),
    Row(
        'LogCoordinatePositionBias, "mlp", dropout',
        lambda: LogCoordinatePositionBias((2, 3), 2, hidden_features=16, mlp_name="mlp", dropout=0.125),
        BiasAdded,
        WINDOWS,
    ),
    Row(
        'LogCoordinatePositionBias, "meta_mlp", mode="cr"',
        lambda: LogCoordinatePositionBias((2, 3), 2, hidden_features=16, mode="cr", mlp_name="meta_mlp"),
        BiasAdded,
        WINDOWS,
    ),
    Row(
        'LogCoordinatePositionBias, "continuous_position_bias_mlp", emit_index',
        lambda: LogCoordinatePositionBias(
            (2, 3), 2, 16, mlp_name="continuous_position_bias_mlp", emit_index="square"
        ),
        BiasAdded,
        WINDOWS,
    ),
    Row(
        "RelativePositionBias",
        lambda: RelativePositionBias(2, 2, 2),
        BiasOfMap,
        ((2, 1, 4, 4), (3, 1, 6, 9), (1, 1, 2, 2)),
    ),
    Row(
        "RelativePositionBias, legacy_stride, emit_index",
        lambda: RelativePositionBias(2, 2, 3, legacy_stride=True, emit_index="square"),
        BiasOfMap,
        ((2, 1, 4, 6), (3, 1, 6, 9), (1, 1, 2, 3)),
    ),
    Row(
        "SinusoidalPositionalEmbedding",
        lambda: SinusoidalPositionalEmbedding(16, 8, padding_idx=1),
        Applied,
        ((2, 5), (3, 9), (1, 2)),
        tokens=True,
    ),
    Row(
        "SinusoidalPositionalEmbedding, inputs_embeds, attention_mask",
        lambda: SinusoidalPositionalEmbedding(16, 8, padding_idx=1),
        MaskGiven,
        SEQUENCES,
    ),
    Row("SinusoidalPositionalEncoding", _classic, Applied, SEQUENCES),
    Row("SinusoidalPositionalEncoding, start [B]", _classic, StartsGiven, SEQUENCES),
    Row("SinusoidalPositionalEncoding, position_ids", _classic, PositionsGiven, SEQUENCES),
    Row(
        "SinusoidalPositionalEncoding, emit_pe",
        lambda: SinusoidalPositionalEncoding(8, 0.1, max_len=7, emit_pe=True),
        Applied,
        SEQUENCES,
    ),
    Row("T5BiasSoftmax", lambda: T5BiasSoftmax(2), SoftmaxOfScores, SCORES),
    Row("T5RelativePositionBias", lambda: T5RelativePositionBias(2), BiasOfLengths, SCORES),
    Row(
        "T5RelativePositionBias, diagonals",
        lambda: T5RelativePositionBias(2),
        SoftmaxOfSharedDiagonals,
        SCORES,
    ),
    Row("TimestepEmbedding", lambda: TimestepEmbedding(8, True, 0), Applied, ((3,), (5,))),
    Row(
        "VisionPositionEmbedding",
        lambda: VisionPositionEmbedding((3, 4), 8, dist_token=True, registers=2, dropout=0.1),
        Applied,
        MAPS,
    ),
    Row(
        "VisionPositionEmbedding, embed_prefix=False",
        lambda: VisionPositionEmbedding((3, 4), 8, embed_prefix=False, antialias=False),
        Applied,
        MAPS,
    ),
    Row(
        "VisionPositionEmbedding.from_sinusoidal, frozen",
        lambda: VisionPositionEmbedding.from_sinusoidal((3, 4), 8, trainable=False),
        Applied,
        MAPS,
        frozen=True,
    ),
    Row("WindowBiasSoftmax", lambda: WindowBiasSoftmax((2, 3), 2), SoftmaxOfItsInput, WINDOWS),
    Row(
        "WindowBiasSoftmax, prefix_tokens, emit_index, mask",
        lambda: WindowBiasSoftmax((2, 3), 2, prefix_tokens=1, emit_index="square"),
        MaskedSoftmax,
        ((2, 2, 7, 7), (3, 2, 7, 7)),
    ),
    Row(
        "WindowBiasSoftmax, heads_first, regions",
        lambda: WindowBiasSoftmax((2, 3), 2, heads_first=True),
        SoftmaxOfRegions,
        WINDOWS,
    ),
    Row("WindowRelativePositionBias", lambda: WindowRelativePositionBias((2, 3), 2), BiasAdded, WINDOWS),
    Row(
        "WindowRelativePositionBias, emit_index",
        lambda: WindowRelativePositionBias((2, 3), 2, emit_index="flat"),
        BiasAdded,
        WINDOWS,
    ),
    Row(
        "WindowRelativePositionBias, prefix_tokens, emit_index",
        lambda: WindowRelativePositionBias((2, 3), 2, prefix_tokens=1, emit_index="square"),
        BiasAdded,
        ((2, 2, 7, 7), (3, 2, 7, 7)),
    ),
    Row(
        "WindowRelativePositionBias, key_window, emit_index",
        lambda: WindowRelativePositionBias((2, 3), 2, key_window=(3, 4), emit_index="square"),
        BiasAdded,
        ((2, 2, 6, 12), (3, 2, 6, 12)),
    ),
    Row(
        "WindowRelativePositionBias, window at the call",
        lambda: WindowRelativePositionBias((3, 3), 2),
        SmallerWindow,
        WINDOWS,
    ),
    Row(
        "WindowRelativePositionBias, heads_first",
        lambda: WindowRelativePositionBias((2, 3), 2, heads_first=True),
        BiasAdded,
        WINDOWS,
    ),
)


@dataclass(frozen=True)
class Machinery:
    """A column: what is done to every module, and why a module is left out."""

    name: str
    group: str
    check: Callable[[Row], None]
    unless: dict[str, Callable[[Row], bool]] = field(default_factory=dict)
    distributed: bool = False

    def reason(self, row: Row) -> str | None:
        """Why there is nothing to test for this module; None where it is tested."""
        return next((reason for reason, applies in self.unless.items() if applies(row)), None)


MACHINERIES: list[Machinery] = []


def machinery(group: str, name: str, unless: dict | None = None, distributed: bool = False) -> Callable:
    """Registers a check of one row as a machinery; `unless` maps a reason to a predicate of rows."""

    def register(check: Callable[[Row], None]) -> Callable[[Row], None]:
        MACHINERIES.append(Machinery(name, group, check, unless or {}, distributed))
        return check

    return register


def altered(actual: dict[str, Tensor], row: Row) -> bool:
    """Whether the output is another than that of the model as built, where a parameter can make it so."""
    return no_parameters(row) or not torch.equal(
        actual["output"], run(row.model().eval(), row.x(), False)["output"]
    )


def no_state(row: Row) -> bool:
    return not row.build().state_dict()


def no_parameters(row: Row) -> bool:
    return not any(True for _ in row.build().parameters())


def no_dropout(row: Row) -> bool:
    return not hasattr(row.build(), "dropout")


def run(model: nn.Module, x: Tensor, backward: bool = True) -> dict[str, Tensor]:
    """The output, and the gradients of x and of the parameters for a fixed gradient of the output."""
    x = x.detach().clone()
    x.requires_grad_(backward and x.is_floating_point())
    model.zero_grad()
    set_seed(2)
    output = model(x)
    values = {"output": output.detach().clone()}
    if not backward:
        return values
    output.backward(cotangent(output))
    gradients = {"x": x.grad, **{name: p.grad for name, p in model.named_parameters()}}
    return values | {f"gradient of {k}": g.clone() for k, g in gradients.items() if g is not None}


def cotangent(output: Tensor) -> Tensor:
    """The same gradient of the output in every run."""
    return torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape).to(output)


def compare(actual: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 0, atol: float = 0) -> None:
    """Every expected value is there and equal; tolerances only where a sum has another order."""
    for name, value in expected.items():
        assert name in actual, f"{name} is missing, there are {list(actual)}"
        torch.testing.assert_close(
            actual[name], value, rtol=rtol, atol=atol, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


def failures(column: Machinery, rows: tuple[Row, ...] = ROWS) -> dict[str, str]:
    """Row name to error, for the rows that fail."""
    found = {}
    for row in rows:
        if column.reason(row) is None:
            try:
                column.check(row)
            except Exception as error:
                text = " ".join(str(error).split())
                found[row.name] = f"{type(error).__name__}: {text[:300]}"
    return found
