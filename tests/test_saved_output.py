"""The autograd rule of csrc/autograd/linear.h for an op that saves its result, which none here does yet."""

import gc
import weakref

import native
import pytest
import torch
from op_types import values
from support import Calls, same_bits
from torch._dynamo import compiled_autograd
from torch.autograd import gradcheck, gradgradcheck
from torch.utils import cpp_extension


@pytest.fixture(scope="module")
def softmax():
    folder = cpp_extension.library_paths("cpu")[0]
    flags = ["-std=c++20", "-Icsrc", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Wl,--no-as-needed"]
    flags += [word for path in cpp_extension.include_paths("cpu") for word in ("-isystem", path)]
    flags += [f"-L{folder}", f"-Wl,-rpath,{folder}", "-ltorch_cpu", "-lc10"]
    torch.ops.load_library(native.build("saved_output.so", ["tests/cpp/saved_output.cpp"], flags))
    return torch.ops.posenc_test.softmax_of_product


def leaves():
    return [values((2, 3, 5), "cpu", torch.float64, seed=i).requires_grad_() for i in range(2)]


def test_derivatives(softmax):
    """Of both inputs, of first and second order, in both modes."""
    assert gradcheck(softmax, leaves(), check_forward_ad=True)
    assert gradgradcheck(softmax, leaves(), check_fwd_over_rev=True)


@pytest.mark.parametrize("wanted", [0, 1])
def test_only_the_gradient_asked_for_is_computed(softmax, wanted):
    inputs = leaves()
    y = softmax(*inputs)
    with Calls() as both:
        expected = torch.autograd.grad(y.sum(), inputs, retain_graph=True)
    with Calls() as one:
        (actual,) = torch.autograd.grad(y.sum(), inputs[wanted])
    assert same_bits(actual, expected[wanted])
    assert both.names.count("aten.mul") == one.names.count("aten.mul") + 1


def test_result_is_freed_without_a_garbage_collection(softmax):
    """The node that the result refers to does not refer to the result."""
    gc.disable()
    try:
        y = softmax(*leaves())
        freed = weakref.ref(y)
        del y
        assert freed() is None
    finally:
        gc.enable()


def test_result_changed_in_place_is_an_error(softmax):
    y = softmax(*leaves())
    y.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_second_backward_is_an_error(softmax):
    y = softmax(*leaves())
    y.sum().backward()
    with pytest.raises(RuntimeError, match="a second time"):
        y.sum().backward()


def test_compiled_autograd(softmax):
    inputs = leaves()
    expected = torch.autograd.grad(softmax(*inputs).square().sum(), inputs)
    with compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        softmax(*inputs).square().sum().backward()
    for leaf, gradient in zip(inputs, expected):
        assert same_bits(leaf.grad, gradient)
