"""What posenc_ext.accelerate changes in whole models: python bench/adopt.py [--only PATTERN] [--write]

Each model with random weights, as its library has it and accelerated, takes training steps in turn. --write
puts the rows measured into docs/adopt.md. Models of libraries that are not installed are left out.
"""

import argparse
import copy
import importlib.metadata
import importlib.util
import pkgutil
import re
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from end_to_end import interval, peak, trained
from report import markdown_block
from run import setting
from torch import Tensor, nn

import posenc_ext

PAGE = Path(__file__).resolve().parents[1] / "docs/adopt.md"
COMMAND = "python bench/adopt.py --write"
COLUMNS = (
    "library",
    "model, input",
    "modules",
    "difference",
    "error of the output",
    "of the gradient",
    "of position gradients in bfloat16",
    "training step",
    "change",
    "MiB",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n|---|---{'|--:' * (len(COLUMNS) - 2)}|\n"
# Parameters of position encodings and biases.
POSITIONS = re.compile("relative_|attention_biases|pos_embed|cpb_mlp|position_bias_mlp")


def new(path: str, *arguments: Any, **options: Any) -> Any:
    return pkgutil.resolve_name(path)(*arguments, **options)


def config(model: str, config: str, **options: Any) -> nn.Module:
    """Of transformers: a model with the default sizes."""
    return new(f"transformers.{model}", new(f"transformers.{config}", **options))


class Work(NamedTuple):
    library: str
    name: str  # of the model, with the input
    make: Callable[[], nn.Module]
    arguments: tuple[Tensor, ...]
    call: Callable[..., Tensor]  # of the model and the arguments


def works() -> list[Work]:
    two, one = (torch.randn(2, 3, 224, 224),), (torch.randn(1, 3, 224, 224),)
    volume, tokens = (torch.randn(1, 1, 64, 64, 64),), (torch.randint(2, 32000, (2, 256)),)
    tv = partial(partial, new)
    timm = partial(partial, new, "timm.create_model")
    unetr = partial(new, "monai.networks.nets.SwinUNETR", in_channels=1, out_channels=2, feature_size=12)
    swin = partial(config, "SwinModel", "SwinConfig")
    swin_v2 = partial(config, "Swinv2Model", "Swinv2Config")
    mpnet = partial(config, "MPNetModel", "MPNetConfig", num_hidden_layers=6, vocab_size=32000)
    t5 = partial(config, "T5EncoderModel", "T5Config", is_encoder_decoder=False, dropout_rate=0.0)
    return [
        Work("torchvision", "swin_t, 2 images", tv("torchvision.models.swin_t"), two, plain),
        Work("torchvision", "swin_v2_t, 2 images", tv("torchvision.models.swin_v2_t"), two, plain),
        Work("torchvision", "vit_b_16, 1 image", tv("torchvision.models.vit_b_16"), one, plain),
        Work("timm", "Swin-T, 2 images", timm("swin_tiny_patch4_window7_224"), two, plain),
        Work("timm", "BEiT-base, 1 image", timm("beit_base_patch16_224"), one, plain),
        Work("timm", "levit_256, 2 images", timm("levit_256"), two, plain),
        Work("timm", "ViT-small, 2 images", timm("vit_small_patch16_224"), two, plain),
        Work("monai", "SwinUNETR, 64 x 64 x 64", unetr, volume, plain),
        Work("transformers", "SwinModel, 2 images", swin, two, hidden_state),
        Work("transformers", "Swinv2Model, 2 images", swin_v2, two, hidden_state),
        Work("transformers", "T5EncoderModel (small), 2 x 256 tokens", t5, tokens, hidden_state),
        Work("transformers", "MPNetModel, 6 layers, 2 x 256 tokens", mpnet, tokens, hidden_state),
    ]


def plain(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def hidden_state(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).last_hidden_state


def results(model: nn.Module, work: Work, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    """The output of a model in training mode, and its gradients, in float64."""
    model = copy.deepcopy(model).to(dtype)
    model.train()
    arguments = [value.to(dtype) if value.is_floating_point() else value for value in work.arguments]
    output = work.call(model, *arguments)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    output.backward(upstream.to(dtype))
    gradients = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    return output.detach().double(), gradients


def error(actual: Tensor, exact: Tensor) -> float:
    return float((actual - exact).norm() / exact.norm())


def flat(gradients: dict[str, Tensor], chosen: re.Pattern[str] = re.compile("")) -> Tensor:
    return torch.cat([value.flatten() for name, value in gradients.items() if chosen.search(name)])


def compare(work: Work, rounds: int) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    model = work.make()
    for module in model.modules():  # no dropout, no stochastic depth
        for probability in {"p", "drop_prob"} & set(vars(module)):
            setattr(module, probability, 0.0)
    with torch.no_grad():  # libraries fill biases, and some layers, with zeros
        for key, parameter in model.named_parameters():
            if POSITIONS.search(key) or not parameter.any():
                parameter.normal_(std=0.02)
    ours = copy.deepcopy(model)
    replaced = len(posenc_ext.accelerate(ours, strict=True).replaced)

    both = (model, ours)
    exact, exact_gradients = results(model, work, torch.float64)
    single = [results(m, work, torch.float32) for m in both]
    half = [results(m, work, torch.bfloat16)[1] for m in both]
    outputs = [error(output, exact) for output, _ in single]
    gradients = [error(flat(g), flat(exact_gradients)) for _, g in single]
    positions = [error(flat(g, POSITIONS), flat(exact_gradients, POSITIONS)) for g in half]
    differences = (
        (single[0][0] - single[1][0]).abs().max() / exact.abs().max(),
        (flat(single[0][1]) - flat(single[1][1])).abs().max() / flat(exact_gradients).abs().max(),
    )

    step = trained(lambda m: work.call(m, *work.arguments).square().mean())
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):  # the first is to warm up
        for which in (0, 1) if turn % 2 else (1, 0):
            begin = perf_counter()
            step(both[which])
            seconds[which].append(perf_counter() - begin)
    base, changed = seconds[0][1:], seconds[1][1:]
    changes = [b / a - 1 for a, b in zip(base, changed)]
    low, high = interval(changes)
    times = " / ".join(f"{statistics.median(values) * 1e3:.0f}" for values in (base, changed))
    cells = [
        f"{work.library} {importlib.metadata.version(work.library)}",
        work.name,
        str(replaced),
        ", ".join(f"{float(value):.0e}" for value in differences),
        *(" / ".join(f"{value:.1e}" for value in values) for values in (outputs, gradients, positions)),
        f"{times} ms",
        f"{statistics.median(changes):+.1%} ({low:+.1%} to {high:+.1%})",
        " / ".join(f"{peak(step, m):.0f}" for m in both),
    ]
    return f"| {' | '.join(cells)} |\n"


def write(rows: list[str], where: str) -> None:
    """Puts rows into the page, in place of those of the same library and model."""

    def key(row: str) -> list[str]:
        return [cell.strip() for cell in row.split("|")[1:3]]

    old = markdown_block.parts(PAGE, COMMAND)[1].removeprefix(HEADER).splitlines(keepends=True)
    table = {tuple(key(row)): row for row in [*old, *rows] if row.startswith("|")}
    markdown_block.write(PAGE, COMMAND, HEADER + "".join(table.values()) + f"\n{where}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11, help="steps of each model (default 11)")
    parser.add_argument("--only", metavar="PATTERN", default="", help="models whose library or name match")
    parser.add_argument("--write", action="store_true", help="write the rows into docs/adopt.md")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for work in works():
        wanted = re.search(chosen.only, f"{work.library} {work.name}")
        if wanted and importlib.util.find_spec(work.library):
            rows.append(compare(work, chosen.rounds))
            print(rows[-1], end="", flush=True)
    where = f"{setting('D', [torch.get_num_threads()], 'cpu')}; {chosen.rounds} steps of each model in turn."
    print(where)
    if chosen.write:
        write(rows, where)


if __name__ == "__main__":
    main()
