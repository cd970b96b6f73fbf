"""What position ops change in whole models: python bench/end_to_end.py [--rounds N] [--only PATTERN]

Needs timm and transformers. Models with random weights, each as the library has it (eager); an equal copy,
which shows the noise; with scaled_dot_product_attention (SDPA); with the position bias made by posenc_ext;
with posenc_ext's attention, which stores no bias. They take every step in turn. Prints END_TO_END.md, and
writes it with --write.
"""

import argparse
import copy
import math
import re
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

import timm
import torch
import transformers
from run import setting
from timm.models import beit, swin_transformer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers.masking_utils import AttentionMaskInterface
from transformers.models.t5.modeling_t5 import (
    T5Attention,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

import posenc_ext

PAGE = Path(__file__).with_name("END_TO_END.md")
TOLERANCE = 1e-5  # of losses or outputs, relative to the root mean square of eager's
COMPARED = 8  # steps in which they must agree: AdamW amplifies a last bit in later ones
VARIANTS = ("eager", "equal copy", "SDPA", "posenc_ext bias", "posenc_ext attention")
WINDOWED = (swin_transformer.WindowAttention, beit.Attention)
Step = Callable[[nn.Module], Tensor]  # returns the loss or the outputs, in which the models must agree
ops = torch.ops.posenc_ext


def prefix_tokens(module: nn.Module) -> int:
    return int(isinstance(module, beit.Attention))


def window_bias(module: nn.Module) -> Tensor:
    """As _get_rel_pos_bias of timm."""
    table, window = module.relative_position_bias_table, module.window_size
    return posenc_ext.window_bias(table, window, prefix_tokens=prefix_tokens(module)).unsqueeze(0)


def window_attention(module: nn.Module, x: Tensor, mask: Tensor | None = None, **shared: None) -> Tensor:
    """As forward of timm, without dropout and without a bias that layers share."""
    bias = module.qkv.bias
    if prefix_tokens(module):
        bias = torch.cat((module.q_bias, module.k_bias, module.v_bias))
    qkv = nn.functional.linear(x, module.qkv.weight, bias)
    q, k, v = qkv.unflatten(2, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    if mask is not None and not hasattr(module, "regions"):
        module.regions = (mask == 0).int().argmax(-1)  # of a token: the first one in its region
    x = ops.window_attention(
        *(q, k, v, module.relative_position_bias_table, module.window_size),
        prefix_tokens=prefix_tokens(module),
        regions=None if mask is None else module.regions,
    )
    return module.proj(x.transpose(1, 2).flatten(2))


def t5_bias(module: T5Attention, q_len: int, k_len: int, device=None, past_seen_tokens=0) -> Tensor:
    """As compute_bias of transformers."""
    return posenc_ext.t5_bias(
        module.relative_attention_bias.weight,
        q_len,
        k_len,
        int(past_seen_tokens),
        not module.is_decoder,
        module.relative_attention_max_distance,
    ).unsqueeze(0)


def t5_diagonals(module: T5Attention, q_len: int, k_len: int, device=None, past_seen_tokens=0) -> Tensor:
    """What all layers are given in place of the bias."""
    return t5_bias(module, 1, q_len + k_len - 1, past_seen_tokens=past_seen_tokens + q_len - 1)[0, :, 0]


def t5_attention(module, q, k, v, mask, scaling, position_bias, **options) -> tuple[Tensor, None]:
    x = ops.diagonal_attention(q, k, v, position_bias, scale=scaling, mask=mask)
    return x.transpose(1, 2), None


def t5_mask(attention_mask: Tensor, **options) -> Tensor:
    return attention_mask[:, None, None, :].bool()


transformers.AttentionInterface.register("posenc_ext", t5_attention)
AttentionMaskInterface.register("posenc_ext", t5_mask)


def change(model: nn.Module, variant: str) -> None:
    """Makes a variant of a model as its library has it."""
    if isinstance(model, transformers.PreTrainedModel):
        names = {"SDPA": "sdpa", "posenc_ext attention": "posenc_ext"}
        model.set_attn_implementation(names.get(variant, "eager"))
    for module in model.modules():
        if isinstance(module, WINDOWED):
            module.fused_attn = variant == "SDPA"
            bias, attention = ("_get_rel_pos_bias", window_bias), ("forward", window_attention)
        elif isinstance(module, T5Attention) and module.has_relative_attention_bias:
            bias, attention = ("compute_bias", t5_bias), ("compute_bias", t5_diagonals)
        else:
            continue
        for name, method in {VARIANTS[3]: [bias], VARIANTS[4]: [attention]}.get(variant, []):
            module.__dict__[name] = partial(method, module)  # found before the method of the class


def trained(loss: Callable[[nn.Module], Tensor]) -> Step:
    optimizers: dict[int, torch.optim.Optimizer] = {}

    def step(model: nn.Module) -> Tensor:
        if id(model) not in optimizers:
            optimizers[id(model)] = torch.optim.AdamW(model.train().parameters(), lr=1e-5)
        value = loss(model)
        value.backward()
        optimizers[id(model)].step()
        model.zero_grad()
        return value.detach()

    return step


def inferred(run: Callable[[nn.Module], Tensor]) -> Step:
    @torch.no_grad()
    def step(model: nn.Module) -> Tensor:
        return run(model.eval())

    return step


def works() -> list[tuple[str, Callable[[], nn.Module], Step]]:
    swin = partial(timm.create_model, "swin_tiny_patch4_window7_224", num_classes=1000, drop_path_rate=0.0)
    vit = partial(timm.create_model, "beit_base_patch16_224", head_init_scale=1.0, drop_path_rate=0.0)
    images, labels = torch.randn(4, 3, 224, 224), torch.randint(1000, (4,))
    config = partial(T5Config, dropout_rate=0.0, decoder_start_token_id=0)  # T5EncoderModel changes its own
    encoder, t5 = (lambda: T5EncoderModel(config())), (lambda: T5ForConditionalGeneration(config()))
    tokens, targets = torch.randint(2, 32000, (2, 512)), torch.randint(2, 32000, (2, 64))
    shown = (torch.arange(512) < torch.tensor([[512], [400]])).long()
    text, wanted = {"input_ids": tokens, "attention_mask": shown}, torch.randn(2, 512, 512)
    pair = {"input_ids": tokens, "labels": targets}
    generate = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False}
    entropy, square = nn.functional.cross_entropy, nn.functional.mse_loss
    one, two = "2 x 512 tokens", "2 x 512 tokens to 2 x 64"
    return [
        ("Swin-T, 4 images, training", swin, trained(lambda m: entropy(m(images), labels))),
        ("Swin-T, 4 images, inference", swin, inferred(lambda m: m(images))),
        ("BEiT-base, 1 image, training", vit, trained(lambda m: entropy(m(images[:1]), labels[:1]))),
        ("BEiT-base, 1 image, inference", vit, inferred(lambda m: m(images[:1]))),
        (f"T5-small encoder, {one}, training", encoder, trained(lambda m: square(m(**text)[0], wanted))),
        (f"T5-small encoder, {one}, inference", encoder, inferred(lambda m: m(**text)[0])),
        (f"T5-small, {two}, training", t5, trained(lambda m: m(**pair).loss)),
        ("T5-small, 64 tokens one by one", t5, inferred(lambda m: m.generate(tokens[:1, :128], **generate))),
    ]


def interval(values: list[float]) -> tuple[float, float]:
    """Of the median, with 95 % confidence or more: a pair of order statistics."""
    count, rank, below = len(values), 0, 1.0
    while 2 * below <= 0.05 * 2**count:
        rank += 1
        below += math.comb(count, rank)
    return sorted(values)[rank - 1 if rank else 0], sorted(values)[-rank if rank else -1]


def peak(step: Step, model: nn.Module) -> float:
    """The largest number of MiB that torch has allocated in a step, above what it has before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step(model)
    now = most = 0
    for event in sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most / 2**20


def compare(name: str, make: Callable[[], nn.Module], step: Step, rounds: int) -> str:
    """A row of the table."""
    first = make()
    for parameter, table in first.named_parameters():
        if "relative_" in parameter:  # 0 or small in a new model
            nn.init.normal_(table)
    # The attention op is not in the decoder of T5, whose cache grows.
    variants = VARIANTS[:-1] if isinstance(first, T5ForConditionalGeneration) else VARIANTS
    models = {variant: copy.deepcopy(first) for variant in variants}
    for variant, model in models.items():
        change(model, variant)
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    difference = 0.0
    for turn in range(rounds + 1):  # the first is to warm up
        values = {}
        for variant in (variants, variants[::-1])[turn % 2]:
            begin = perf_counter()
            values[variant] = step(models[variant])
            seconds[variant].append(perf_counter() - begin)
        eager = values["eager"].double()
        if turn >= COMPARED:
            continue
        furthest = max(float((value - eager).abs().max()) for value in values.values())
        difference = max(difference, furthest / (float(eager.square().mean().sqrt()) or 1.0))
    if not difference <= TOLERANCE:
        raise SystemExit(f"{name}: the models differ by {difference:.2g}")
    base = seconds["eager"][1:]
    cells = [name, f"{statistics.median(base) * 1e3:.0f} ms"]
    noise = 0.0
    for variant in VARIANTS[1:]:
        if variant not in variants:
            cells.append("–")
            continue
        changes = [b / a - 1 for a, b in zip(base, seconds[variant][1:])]
        low, high = interval(changes)
        if variant == "equal copy":
            noise = max(-low, high)
        text = f"{statistics.median(changes):+.1%} ({low:+.1%} to {high:+.1%})"
        cells.append(f"**{text}**" if max(low, -high) > noise else text)
    cells.append(f"{difference:.0e}")
    memory = (f"{peak(step, models[v]):.0f}" if v in variants else "–" for v in VARIANTS if v != "equal copy")
    cells.append(" / ".join(memory))
    return f"| {' | '.join(cells)} |"


TEXT = """\
# What posenc_ext changes in a whole model

Random weights, float32, AdamW, {rounds} steps of each model in turn. {setting}, timm {timm.__version__},
transformers {transformers.__version__}; `python bench/end_to_end.py --write`.

| work | eager step | equal copy | SDPA | posenc_ext bias | posenc_ext attention | difference | MiB |
|---|--:|--:|--:|--:|--:|--:|--:|
{table}

The columns in per cent: the change of a step's time, the median of the rounds, and its 95 % confidence
interval. Bold: the whole interval is further from 0 than that of the equal copy, which is noise. Difference:
the largest of the losses (training) or of any output, relative to the root mean square of eager's. MiB: the
most that a step allocates above the weights and the optimizer's state: eager / SDPA / posenc_ext bias /
posenc_ext attention.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21, help="steps of each model (default 21)")
    parser.add_argument("--only", metavar="PATTERN", default="", help="works whose name the pattern matches")
    parser.add_argument("--write", action="store_true", help="write END_TO_END.md")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity_error()
    rows = []
    for work in works():
        if re.search(chosen.only, work[0]):
            rows.append(compare(*work, chosen.rounds))
            print(rows[-1], flush=True)
    where = setting("D", [torch.get_num_threads()], "cpu")
    page = TEXT.format(
        setting=where, rounds=chosen.rounds, table="\n".join(rows), timm=timm, transformers=transformers
    )
    print(page)
    if chosen.write:
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
