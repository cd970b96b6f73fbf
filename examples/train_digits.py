"""Trains two small Transformers on real data (scikit-learn's 1797 scanned digits of 8 x 8 pixels), with
posenc_ext and with plain PyTorch position code, and compares.

1. A Transformer on the rows of an image (sinusoids) and one on its patches (relative-position bias inside
   windows, and the expanded form for a coarser grid of keys) are each trained twice, from the same initial
   weights on the same batches: with the position code of plain_positions.py and with posenc_ext.nn, in
   alternating steps. Dropout is off here, because the two generate different masks.
2. The row Transformer is trained once more with posenc_ext and dropout, as in actual use.
3. The models trained with posenc_ext are saved as TorchScript and run in a new process without other code.

Exits with status 1 if two losses of the same batch differ by more than 1e-3, an accuracy is below 95 %, or
the outputs of a saved model differ in any bit from those of the original model.
"""

import argparse
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import ModuleType

import plain_positions
import torch
from digits_models import RowTransformer, WindowTransformer
from digits_training import Digits, Trainer
from torch import nn

import posenc_ext

EXAMPLES = Path(__file__).resolve().parent
MAX_DIFFERENCE = 1e-3
MIN_ACCURACY = 95.0


@dataclass
class Plan:
    """How a model is trained."""

    epochs: int
    batch: int
    rate: float


@dataclass
class Outcome:
    """A trained model and its results."""

    name: str
    file: str
    model: nn.Module
    accuracies: list[float]  # per cent, of plain and posenc_ext or of posenc_ext alone
    difference: float = 0.0  # the largest between two losses of the same batch


def progress(text: str) -> None:
    """Prints a line that the next one overwrites, if stdout is a terminal."""
    if sys.stdout.isatty():
        print(f"\r{text:<60}", end="\r", flush=True)


def compare(
    name: str, file: str, build: Callable[[ModuleType], nn.Module], digits: Digits, plan: Plan
) -> Outcome:
    """Trains two equal models side by side and prints a line per epoch."""
    sources = (plain_positions, posenc_ext.nn)
    torch.manual_seed(0)
    models = [build(positions) for positions in sources]
    # Strict loading works although the plain model has buffers: posenc_ext.nn drops them.
    models[1].load_state_dict(models[0].state_dict())
    steps = digits.steps(1, plan.batch)
    both = [
        Trainer(model, positions, plan.epochs * steps, plan.rate)
        for model, positions in zip(models, sources, strict=True)
    ]
    weights = sum(weight.numel() for weight in models[1].parameters())
    print(f"\n{name}: {weights} weights, {plan.epochs} epochs in batches of {plan.batch}, dropout off")
    print(
        "         mean training loss     largest       test accuracy     position ops, us a step: fwd + bwd"
    )
    print("epoch     plain  posenc_ext  difference     plain  posenc_ext          plain     posenc_ext")
    largest = 0.0
    for epoch in range(plan.epochs):
        losses = []
        for images, labels in digits.batches(epoch, plan.batch):
            progress(f"{epoch + 1:>5}  batch {len(losses) + 1} of {steps}")
            losses.append([trainer.step(images, labels) for trainer in both])
        difference = max(abs(plain - ours) for plain, ours in losses)
        largest = max(largest, difference)
        means = [sum(column) / steps for column in zip(*losses, strict=True)]
        accuracies = [trainer.accuracy(digits) for trainer in both]
        times = [trainer.position_time(steps) for trainer in both]
        cells = [
            f"{epoch + 1:>5}  {means[0]:>8.6f}  {means[1]:>10.6f}  {difference:>10.1e}",
            f"{accuracies[0]:>6.2f} %  {accuracies[1]:>8.2f} %",
            *(f"{forward:>6.0f} + {backward:>4.0f}" for forward, backward in times),
        ]
        print("  ".join(cells), flush=True)
    (plain, plain_share), (ours, our_share) = (trainer.position_share() for trainer in both)
    print(f"Largest difference between two losses of a batch: {largest:.1e} (limit {MAX_DIFFERENCE:.0e})")
    print(
        f"Position ops in all: plain {plain:.0f} ms ({plain_share:.1f} % of its training time),"
        f" posenc_ext {ours:.0f} ms ({our_share:.1f} %)"
    )
    both[1].clock.remove()
    return Outcome(name, file, models[1], accuracies, largest)


def train_with_dropout(name: str, file: str, digits: Digits, plan: Plan) -> Outcome:
    """Trains the row Transformer with posenc_ext and dropout and prints a line per epoch."""
    torch.manual_seed(0)
    model = RowTransformer(posenc_ext.nn, dropout=0.1)
    steps = digits.steps(1, plan.batch)
    trainer = Trainer(model, posenc_ext.nn, plan.epochs * steps, plan.rate)
    print(f"\n{name}: posenc_ext alone, dropout 0.1 after the sinusoids and in the blocks")
    print("epoch  mean training loss  test accuracy  position ops, us a step: fwd + bwd")
    for epoch in range(plan.epochs):
        loss = 0.0
        for number, (images, labels) in enumerate(digits.batches(epoch, plan.batch)):
            progress(f"{epoch + 1:>5}  batch {number + 1} of {steps}")
            loss += trainer.step(images, labels) / steps
        accuracy = trainer.accuracy(digits)
        forward, backward = trainer.position_time(steps)
        cells = [
            f"{epoch + 1:>5}  {loss:>18.6f}  {accuracy:>11.2f} %",
            f"{forward:>26.0f} + {backward:>4.0f}",
        ]
        print("  ".join(cells), flush=True)
    trainer.clock.remove()
    return Outcome(name, file, model, [accuracy])


def reload(outcomes: list[Outcome], digits: Digits, folder: Path) -> bool:
    """Saves the models as TorchScript, runs them in a new process, and returns whether all outputs match."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for outcome in outcomes:
        model = outcome.model.eval()
        with torch.no_grad():
            logits = model(digits.test_images)
        files += [folder / f"{outcome.file}.pt", folder / f"{outcome.file}_outputs.pt"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit warns of its deprecation at every call
            torch.jit.script(model).save(files[-2])
        torch.save({"images": digits.test_images, "logits": logits}, files[-1])
    # The same number of threads, because it affects how matrix products are divided and rounded.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-W", "ignore", EXAMPLES / "run_saved.py", *files]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(child.stdout + child.stderr, end="", flush=True)
    return child.returncode == 0


def failures(outcomes: list[Outcome], reloaded: bool, judge_accuracy: bool) -> list[str]:
    """A line for each failed criterion; NaN counts as a failure."""
    found = []
    for outcome in outcomes:
        if not outcome.difference <= MAX_DIFFERENCE:
            found.append(f"{outcome.name}: losses differ by {outcome.difference:.1e}")
        if judge_accuracy and not min(outcome.accuracies) >= MIN_ACCURACY:
            found.append(f"{outcome.name}: test accuracy is {min(outcome.accuracies):.2f} %")
    return found if reloaded else [*found, "the outputs of a saved model are not the same"]


def main() -> int:
    parser = argparse.ArgumentParser(description="posenc_ext and plain PyTorch position code on real digits")
    parser.add_argument("--quick", action="store_true", help="one epoch of each; accuracy is not judged")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1, best here)")
    parser.add_argument(
        "--save", type=Path, default=EXAMPLES.parent / "build" / "digits", help="models' folder"
    )
    options = parser.parse_args()
    began = perf_counter()
    torch.set_num_threads(options.threads)
    digits = Digits.load()
    print(
        f"torch {torch.__version__}, {options.threads} thread(s);"
        f" {len(digits.train_labels)} images for training, {len(digits.test_labels)} for test\n"
        "Time in position ops: wall time in training, the median of an epoch's steps; forward: around each\n"
        "position module; backward: from the moment the gradient of its output is complete to the moment\n"
        "that of its input is (position_clock.py)."
    )

    def plan(epochs: int, batch: int, rate: float) -> Plan:
        return Plan(1 if options.quick else epochs, batch, rate)

    outcomes = [
        compare("Row Transformer", "rows", RowTransformer, digits, plan(16, 48, 2e-3)),
        compare("Window Transformer", "windows", WindowTransformer, digits, plan(16, 64, 3e-3)),
        train_with_dropout("Row Transformer with dropout", "rows_dropout", digits, plan(24, 64, 4e-3)),
    ]
    folder = options.save.resolve()
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    print(f"\nSaved as TorchScript in {shown}, run in a fresh process:")
    reloaded = reload(outcomes, digits, options.save)
    found = failures(outcomes, reloaded, judge_accuracy=not options.quick)
    print("\n" + "\n".join([f"{'FAILED' if found else 'PASSED'} in {perf_counter() - began:.0f} s", *found]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
