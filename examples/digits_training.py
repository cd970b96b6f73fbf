"""The data set, and the training of one model."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from types import ModuleType

import torch
from position_clock import PositionClock
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn


@dataclass
class Digits:
    """The digits of scikit-learn, with a fixed split."""

    train_images: Tensor  # [1437, 8, 8], 0 to 1
    test_images: Tensor  # [360, 8, 8]
    train_labels: Tensor
    test_labels: Tensor

    @staticmethod
    def load() -> "Digits":
        pixels, labels = load_digits(return_X_y=True)
        parts = train_test_split(pixels, labels, test_size=360, random_state=0, stratify=labels)
        images = [torch.tensor(part, dtype=torch.float32).view(-1, 8, 8) / 16 for part in parts[:2]]
        return Digits(*images, *[torch.tensor(part) for part in parts[2:]])

    def batches(self, epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields batches of images and labels in an order that depends only on the epoch."""
        order = torch.randperm(len(self.train_labels), generator=torch.Generator().manual_seed(epoch))
        for chosen in order.split(size):
            yield self.train_images[chosen], self.train_labels[chosen]

    def steps(self, epochs: int, size: int) -> int:
        return epochs * -(-len(self.train_labels) // size)


class Trainer:
    """A model with its optimizer, learning-rate schedule and clocks."""

    def __init__(self, model: nn.Module, positions: ModuleType, steps: int, rate: float) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, total_steps=steps)
        self.clock = PositionClock(model, positions)
        self.seconds = 0.0  # of all steps
        self.laps: list[tuple[float, float]] = []  # (forward, backward) per step

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Trains on one batch; returns the loss."""
        began = perf_counter()
        self.model.train()
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        value = loss.item()
        self.seconds += perf_counter() - began
        self.laps.append(self.clock.lap())
        return value

    def accuracy(self, digits: Digits) -> float:
        """Test accuracy in per cent."""
        self.model.eval()
        with torch.no_grad():
            right = self.model(digits.test_images).argmax(1) == digits.test_labels
        return 100 * right.double().mean().item()

    def position_time(self, steps: int) -> tuple[float, float]:
        """Median time of the last steps in position ops, forward and backward, in microseconds."""
        forward, backward = zip(*self.laps[-steps:], strict=True)
        return 1e6 * median(forward), 1e6 * median(backward)

    def position_share(self) -> tuple[float, float]:
        """Total time in position ops, in milliseconds and in per cent of the training time."""
        total = sum(map(sum, self.laps))
        return 1e3 * total, 100 * total / self.seconds
