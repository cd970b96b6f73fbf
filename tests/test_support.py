"""Loops inside of tests lose nothing: every sample runs, from the same seed, and every failure is named."""

import pytest
import torch
from support import each, walk


def text_of(loop, **fixtures) -> str:
    with pytest.raises(AssertionError) as caught:
        loop(**fixtures)
    return str(caught.value)


def test_every_failure_of_a_loop_is_named():
    drawn = []

    @each("outer", ["a", "b"])
    @each(("number", "dtype"), [(1, torch.float32), (2, torch.bfloat16), (3, torch.float64)])
    def loop(outer, number, dtype, fixture):
        drawn.append(torch.rand(1).item())
        assert (outer, number) != ("b", 1), fixture
        if (outer, number) == ("b", 3):
            pytest.skip("where no sample is skipped")

    text = text_of(loop, fixture="a fixture")
    assert text.startswith("1 of 2 samples fail\nb: AssertionError: 2 of 3 samples fail\n")
    assert "\n1-float32: AssertionError: a fixture" in text
    assert "\n3-float64: Skipped: where no sample is skipped" in text
    assert len(drawn) == 6
    assert len(set(drawn)) == 1


def test_every_sample_is_walked():
    seen = []

    @walk(dtypes=(torch.float32, torch.float16), devices=("cpu",), keep=lambda op, sample: sample.gradients)
    def loop(op, sample):
        seen.append(sample.name)
        assert len(seen) != 2

    (mark,) = loop.pytestmark
    (op, device) = next(parameter.values for parameter in mark.args[1] if parameter.id == "window_bias")
    text = text_of(loop, op=op, device=device)
    names = [s.name for d in (torch.float32, torch.float16) for s in op.samples("cpu", d) if s.gradients]
    assert seen == names
    assert text.startswith(f"1 of {len(names)} samples fail\nfloat32 {names[1]}: AssertionError")


def test_a_loop_over_nothing_fails():
    @each("number", [])
    def loop(number): ...

    assert text_of(loop) == "no samples"
