"""What position ops weigh in whole models: python bench/end_to_end.py [--rounds N] [--print]

Needs timm and transformers (requirements/models.txt). Builds a Swin-T and a T5-small with random weights,
three times each: as the library has it, with the position code replaced by posenc_ext.nn, and as the
library has it again, which shows what the machine adds. The three take every step in turn. Writes
bench/END_TO_END.md.

Time in position code: forward, around the function that makes the bias; backward, from the moment the
gradient of the bias is complete to the moment that of its table is.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import machine
import timm
import torch
import transformers
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention, T5Config, T5ForConditionalGeneration

import posenc_ext

PAGE = Path(__file__).resolve().with_name("END_TO_END.md")
TOLERANCE = 1e-4  # between losses of the two models, relative


@dataclass
class Clock:
    """Seconds spent in the position code of a model since the last lap."""

    total: float = 0.0
    started: float = 0.0

    def around(self, make: Callable[..., Tensor], table: nn.Parameter) -> Callable[..., Tensor]:
        """`make` returns a bias made from `table`."""

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

    def lap(self) -> float:
        total, self.total = self.total, 0.0
        return total


def clocked(model: nn.Module, ours: bool) -> Clock:
    """Measures the position code of a model, and replaces it first if `ours`."""
    clock = Clock()
    for module in model.modules():
        if isinstance(module, WindowAttention):
            table, make, name = (
                module.relative_position_bias_table,
                module._get_rel_pos_bias,
                "_get_rel_pos_bias",
            )
            if ours:
                bias = posenc_ext.nn.WindowRelativePositionBias(module.window_size, module.num_heads)
                bias.relative_position_bias_table = table
                make = bias.forward
        elif isinstance(module, T5Attention) and module.has_relative_attention_bias:
            table, make, name = module.relative_attention_bias.weight, module.compute_bias, "compute_bias"
            if ours:
                buckets, distance = (
                    module.relative_attention_num_buckets,
                    module.relative_attention_max_distance,
                )
                bias = posenc_ext.nn.T5RelativePositionBias(
                    module.n_heads, buckets, distance, bidirectional=not module.is_decoder
                )
                bias.relative_attention_bias = module.relative_attention_bias
                make = t5_bias(bias)
        else:
            continue
        module.__dict__[name] = clock.around(make, table)  # before the method of the class
    return clock


def t5_bias(bias: posenc_ext.nn.T5RelativePositionBias) -> Callable[..., Tensor]:
    """With the arguments of T5Attention.compute_bias."""

    def compute_bias(query_length, key_length, device=None, past_seen_tokens=0):
        return bias(query_length, key_length, int(past_seen_tokens))

    return compute_bias


@dataclass
class Work:
    """A model and what is done with it; `step` returns a number in which the two models must agree."""

    name: str
    model: nn.Module
    step: Callable[[nn.Module], float]


def trained(loss: Callable[[nn.Module], Tensor]) -> Callable[[nn.Module], float]:
    """A training step with AdamW."""
    optimizers: dict[int, torch.optim.Optimizer] = {}

    def step(model: nn.Module) -> float:
        if id(model) not in optimizers:
            optimizers[id(model)] = torch.optim.AdamW(model.parameters(), lr=1e-5)
        optimizers[id(model)].zero_grad()
        value = loss(model.train())
        value.backward()
        optimizers[id(model)].step()
        return float(value.detach())

    return step


def inferred(run: Callable[[nn.Module], Tensor]) -> Callable[[nn.Module], float]:
    def step(model: nn.Module) -> float:
        with torch.no_grad():
            return float(run(model.eval()).double().square().mean().sqrt())

    return step


def works() -> list[Work]:
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=1000, drop_path_rate=0.0)
    images, labels = torch.randn(4, 3, 224, 224), torch.randint(1000, (4,))
    t5 = T5ForConditionalGeneration(T5Config(dropout_rate=0.0, decoder_start_token_id=0))
    tokens, targets = torch.randint(2, 32000, (2, 512)), torch.randint(2, 32000, (2, 64))
    short = tokens[:1, :128]

    def generated(model: nn.Module) -> Tensor:
        return model.generate(short, max_new_tokens=64, min_new_tokens=64, do_sample=False)

    return [
        Work(
            "Swin-T, 4 images of 224 x 224, training",
            swin,
            trained(lambda m: nn.functional.cross_entropy(m(images), labels)),
        ),
        Work("Swin-T, 4 images, inference", swin, inferred(lambda m: m(images))),
        Work(
            "T5-small, 2 x 512 tokens to 2 x 64, training",
            t5,
            trained(lambda m: m(input_ids=tokens, labels=targets).loss),
        ),
        Work(
            "T5-small, 2 x 512 tokens to 2 x 64, inference",
            t5,
            inferred(lambda m: m(input_ids=tokens, labels=targets).logits),
        ),
        Work("T5-small, 64 tokens generated one by one from 128", t5, inferred(generated)),
    ]


@dataclass
class Outcome:
    """Medians in seconds: the library's model, with posenc_ext, the library's once more."""

    name: str
    steps: list[float]
    positions: list[float]  # of the steps, in position code
    difference: float  # the largest between the first two, relative


def compare(work: Work, rounds: int) -> Outcome:
    models = [copy.deepcopy(work.model) for _ in range(3)]
    clocks = [clocked(model, ours) for model, ours in zip(models, (False, True, False), strict=True)]
    steps: list[list[float]] = [[] for _ in models]
    positions: list[list[float]] = [[] for _ in models]
    difference = 0.0
    for turn in range(rounds + 1):  # the first is to warm up
        values = [0.0] * len(models)
        for side in ((0, 1, 2), (2, 1, 0))[turn % 2]:
            clocks[side].lap()
            begin = perf_counter()
            values[side] = work.step(models[side])
            steps[side].append(perf_counter() - begin)
            positions[side].append(clocks[side].lap())
        difference = max(difference, abs(values[0] - values[1]) / max(abs(values[0]), 1e-30))
    if not difference <= TOLERANCE:
        raise SystemExit(f"{work.name}: the two models differ by {difference:.2g}")
    medians = [[statistics.median(side[1:]) for side in times] for times in (steps, positions)]
    return Outcome(work.name, *medians, difference)


TEXT = """\
# What posenc_ext changes in a whole model

Little in time: bias gathers are a small part of a step, and no kernel makes a model faster by more than
their share. What else it changes (gradients summed in float32, the same bits for every number of threads,
no index buffers) does not show here.

Written by `python bench/end_to_end.py`; its first lines say how the time in position code is taken.
{setting}. Random weights, float32, AdamW, {rounds} steps of each model in turn; medians.

{table}

Change: of the median step. Equal copy: the same between two copies of the library's own model, where nothing
but the machine differs: changes of this size mean nothing. Difference: the largest between the two models'
losses (training) or the root mean squares of their outputs (inference), relative.
"""
COLUMNS = ("work", "a step", "in position code", "with posenc_ext", "in position code", "change")
COLUMNS += ("equal copy", "difference")


def page(outcomes: list[Outcome], rounds: int) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" + "|--:" * (len(COLUMNS) - 1) + "|"]
    for o in outcomes:
        cells = [o.name]
        for step, positions in list(zip(o.steps, o.positions, strict=True))[:2]:
            cells += [f"{step * 1e3:.1f} ms", f"{positions * 1e3:.2f} ms ({positions / step:.2%})"]
        cells += [f"{step / o.steps[0] - 1:+.1%}" for step in o.steps[1:]]
        cells.append(f"{o.difference:.1e}")
        lines.append(f"| {' | '.join(cells)} |")
    facts = machine.facts()
    setting = (
        f"{facts['cpu']}, {torch.get_num_threads()} threads, CPU level {facts['cpu_level']}; "
        f"torch {facts['torch']}, timm {timm.__version__}, transformers {transformers.__version__}, "
        f"posenc_ext {facts['posenc_ext']}; {facts['date']}"
    )
    return TEXT.format(setting=setting, rounds=rounds, table="\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="steps of each model (default 9)")
    parser.add_argument("--print", action="store_true", help="print the page in place of writing it")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity_error()
    outcomes = []
    for work in works():
        outcomes.append(compare(work, chosen.rounds))
        print(outcomes[-1], flush=True)
    text = page(outcomes, chosen.rounds)
    if chosen.print:
        print(text)
    else:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
