"""What position ops weigh in whole models: python bench/end_to_end.py [--rounds N]

Needs timm and transformers. A Swin-T and a T5-small with random weights, three times each: as the library
has it, with its position code replaced by posenc_ext.nn, and as the library has it again, which shows the
noise. The three take every step in turn. Prints the table of END_TO_END.md, and writes it with --write.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import timm
import torch
import transformers
from run import setting
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention, T5Config, T5ForConditionalGeneration

import posenc_ext

PAGE = Path(__file__).with_name("END_TO_END.md")
TOLERANCE = 1e-4  # between the losses, or the root mean squares of the outputs, of two models; relative
Step = Callable[[nn.Module], float]  # returns a number in which the models must agree


class Clock:
    """Seconds in the position code of a model. Forward: around the function that makes the bias; backward:
    from the moment its gradient is complete to the moment the gradient of its table is."""

    def __init__(self, model: nn.Module, ours: bool) -> None:
        """Replaces the position code first if `ours`."""
        self.total = self.started = 0.0
        for module in model.modules():
            if isinstance(module, WindowAttention):
                name, table = "_get_rel_pos_bias", module.relative_position_bias_table
                bias = posenc_ext.nn.WindowRelativePositionBias(module.window_size, module.num_heads)
                bias.relative_position_bias_table = table
                make = bias.forward if ours else module._get_rel_pos_bias
            elif isinstance(module, T5Attention) and module.has_relative_attention_bias:
                name, table = "compute_bias", module.relative_attention_bias.weight
                make = t5_bias(module) if ours else module.compute_bias
            else:
                continue
            module.__dict__[name] = self.around(make, table)  # found before the method of the class

    def around(self, make: Callable[..., Tensor], table: nn.Parameter) -> Callable[..., Tensor]:
        def timed(*args, **kwargs) -> Tensor:
            self.start()
            bias = make(*args, **kwargs)
            self.stop()
            if bias.requires_grad:
                bias.register_hook(lambda grad: self.start())
            return bias

        table.register_hook(lambda grad: self.stop())
        return timed

    def start(self) -> None:
        self.started = perf_counter()

    def stop(self) -> None:
        self.total += perf_counter() - self.started


def t5_bias(module: T5Attention) -> Callable[..., Tensor]:
    """With the arguments of T5Attention.compute_bias."""
    bias = posenc_ext.nn.T5RelativePositionBias(
        module.n_heads,
        module.relative_attention_num_buckets,
        module.relative_attention_max_distance,
        bidirectional=not module.is_decoder,
    )
    bias.relative_attention_bias = module.relative_attention_bias

    def compute_bias(query_length, key_length, device=None, past_seen_tokens=0):
        return bias(query_length, key_length, int(past_seen_tokens))

    return compute_bias


def trained(loss: Callable[[nn.Module], Tensor]) -> Step:
    optimizers: dict[int, torch.optim.Optimizer] = {}

    def step(model: nn.Module) -> float:
        if id(model) not in optimizers:
            optimizers[id(model)] = torch.optim.AdamW(model.parameters(), lr=1e-5)
        optimizer = optimizers[id(model)]
        optimizer.zero_grad()
        value = loss(model.train())
        value.backward()
        optimizer.step()
        return float(value.detach())

    return step


def inferred(run: Callable[[nn.Module], Tensor]) -> Step:
    @torch.no_grad()
    def step(model: nn.Module) -> float:
        return float(run(model.eval()).double().square().mean().sqrt())

    return step


def works() -> list[tuple[str, nn.Module, Step]]:
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=1000, drop_path_rate=0.0)
    images, labels = torch.randn(4, 3, 224, 224), torch.randint(1000, (4,))
    t5 = T5ForConditionalGeneration(T5Config(dropout_rate=0.0, decoder_start_token_id=0))
    tokens, targets = torch.randint(2, 32000, (2, 512)), torch.randint(2, 32000, (2, 64))
    texts, short = {"input_ids": tokens, "labels": targets}, tokens[:1, :128]
    generate = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False}
    entropy = nn.functional.cross_entropy
    return [
        ("Swin-T, 4 images of 224 x 224, training", swin, trained(lambda m: entropy(m(images), labels))),
        ("Swin-T, 4 images, inference", swin, inferred(lambda m: m(images))),
        ("T5-small, 2 x 512 tokens to 2 x 64, training", t5, trained(lambda m: m(**texts).loss)),
        ("T5-small, 64 tokens one by one from 128", t5, inferred(lambda m: m.generate(short, **generate))),
    ]


def compare(name: str, model: nn.Module, step: Step, rounds: int) -> str:
    """A row of the table."""
    models = [copy.deepcopy(model) for _ in range(3)]
    clocks = [Clock(model, ours) for model, ours in zip(models, (False, True, False))]
    steps: list[list[float]] = [[] for _ in models]
    positions: list[list[float]] = [[] for _ in models]
    difference = 0.0
    for turn in range(rounds + 1):  # the first is to warm up
        values = [0.0] * len(models)
        for side in (range(3), reversed(range(3)))[turn % 2]:
            clocks[side].total, begin = 0.0, perf_counter()
            values[side] = step(models[side])
            steps[side].append(perf_counter() - begin)
            positions[side].append(clocks[side].total)
        difference = max(difference, abs(values[0] - values[1]) / max(abs(values[0]), 1e-30))
    if not difference <= TOLERANCE:
        raise SystemExit(f"{name}: the two models differ by {difference:.2g}")
    whole, inside = ([statistics.median(side[1:]) for side in times] for times in (steps, positions))
    cells = [name]
    for side in (0, 1):
        cells += [f"{whole[side] * 1e3:.1f} ms", f"{inside[side] * 1e3:.2f} ms"]
    cells += [f"{whole[side] / whole[0] - 1:+.1%}" for side in (1, 2)] + [f"{difference:.1e}"]
    return f"| {' | '.join(cells)} |"


TEXT = """\
# What posenc_ext changes in a whole model

Little in time: position code is about 1 % of a step. Random weights, float32, AdamW; medians of {rounds}
steps. {setting}, timm {timm.__version__}, transformers {transformers.__version__};
`python bench/end_to_end.py --write`.

| work | a step | position code | with posenc_ext | position code | change | equal copy | difference |
|---|--:|--:|--:|--:|--:|--:|--:|
{table}

Change: of the median step. Equal copy: the same for two copies of the library's own model, so changes of this
size are noise. Difference: the largest of the losses (training) or the outputs' root mean squares, relative.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="steps of each model (default 9)")
    parser.add_argument("--write", action="store_true", help="write END_TO_END.md")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity_error()
    table = "\n".join(compare(*work, chosen.rounds) for work in works())
    where = setting("D", [torch.get_num_threads()], "cpu")
    page = TEXT.format(setting=where, rounds=chosen.rounds, table=table, timm=timm, transformers=transformers)
    print(page)
    if chosen.write:
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
