"""What every module of posenc_ext.nn does: state, copies, scripts, graphs, dtypes, the meta device."""

import copy
import io
import pickle

import pytest
import torch
from support import each, same_bits
from torch.func import functional_call

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

SINUSOIDAL = (SinusoidalPositionalEmbedding, SinusoidalPositionalEncoding, TimestepEmbedding)
IDS = torch.tensor([[5, 6, 7, 8], [1, 1, 5, 6], [5, 1, 6, 1]])
REGIONS = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0]])
STARTS = torch.tensor([7, 0, 10**6])

TOKENS = {
    "cls": {},
    "cls-dist": {"dist_token": True},
    "cls-dist-registers": {"dist_token": True, "registers": 3},
    "registers": {"class_token": False, "registers": 2},
    "none": {"class_token": False},
    "cls-apart": {"embed_prefix": False},
    "cls-dist-registers-apart": {"dist_token": True, "registers": 3, "embed_prefix": False},
}


def vision(grid=(3, 4), dim=6, **options):
    return VisionPositionEmbedding(grid, dim, **options)


# Every module and option that computes something of its own, and arguments of its forward.
MODULES = {
    "classic": (lambda: SinusoidalPositionalEncoding(6, 0.0), (torch.randn(5, 2, 6),)),
    "classic-step": (lambda: SinusoidalPositionalEncoding(6, 0.0), (torch.randn(5, 2, 6), 3)),
    "batch-first": (lambda: SinusoidalPositionalEncoding(6, 0.0, batch_first=True), (torch.randn(3, 5, 6),)),
    "batch-first-step": (
        lambda: SinusoidalPositionalEncoding(6, 0.0, batch_first=True),
        (torch.randn(3, 5, 6), 4),
    ),
    "start": (lambda: SinusoidalPositionalEncoding(6, 0.0), (torch.randn(5, 3, 6), None, 9)),
    "starts": (lambda: SinusoidalPositionalEncoding(6, 0.0), (torch.randn(5, 3, 6), None, STARTS)),
    "position-ids": (
        lambda: SinusoidalPositionalEncoding(6, 0.0),
        (torch.randn(5, 3, 6), None, 0, torch.tensor([[7, 0, 10**6, 2, 2]])),
    ),
    "packed": (
        lambda: SinusoidalPositionalEncoding(6, 0.0),
        (torch.randn(4, 6), None, 0, torch.tensor([0, 1, 2, 0])),
    ),
    "opennmt": (lambda: SinusoidalPositionalEncoding.opennmt(0.0, 6), (torch.randn(5, 3, 6),)),
    "tokens": (lambda: SinusoidalPositionalEmbedding(9, 7, 1), (IDS,)),
    "tokens-past": (lambda: SinusoidalPositionalEmbedding(9, 7, 1), (IDS, None, 30)),
    "tokens-pasts": (lambda: SinusoidalPositionalEmbedding(9, 7, 1), (IDS, None, STARTS)),
    "embeds-pasts": (lambda: SinusoidalPositionalEmbedding(9, 7, 1), (None, torch.randn(3, 5, 2), STARTS)),
    "embeds-mask": (
        lambda: SinusoidalPositionalEmbedding(9, 7, 1),
        (None, torch.randn(3, 4, 2), 0, IDS.ne(1)),
    ),
    "embedding-position-ids": (
        lambda: SinusoidalPositionalEmbedding(9, 7, 1),
        (None, None, 0, None, torch.tensor([[2, 1, 3]])),
    ),
    "embeds": (lambda: SinusoidalPositionalEmbedding.fairseq(8, 0), (None, torch.randn(2, 5, 3), 4)),
    "timesteps": (lambda: TimestepEmbedding(6, True, 0), (torch.tensor([0.5, 3.0, 999.0]),)),
    "timesteps-odd": (lambda: TimestepEmbedding(7, False, 1, 2.0, 500, torch.float64), (torch.arange(4),)),
    **{f"vision-{name}": (lambda o=o: vision(**o), (torch.randn(2, 12, 6),)) for name, o in TOKENS.items()},
    "vision-map": (lambda: vision(), (torch.randn(2, 6, 3, 4),)),
    "vision-resampled": (lambda: vision(dist_token=True), (torch.randn(2, 6, 4, 5),)),
    "vision-size": (lambda: vision(antialias=False), (torch.randn(2, 10, 6), [2, 5])),
    "learned": (lambda: LearnedPositionalEmbedding(9, 6), (torch.randn(2, 4, 6),)),
    "learned-past": (lambda: LearnedPositionalEmbedding(9, 6, 2, 0.0, 1.5), (torch.randn(2, 4, 6), 5)),
    "learned-seq-first": (
        lambda: LearnedPositionalEmbedding(9, 6, batch_first=False),
        (torch.randn(4, 2, 6),),
    ),
    "learned-pasts": (
        lambda: LearnedPositionalEmbedding(9, 6, 2, batch_first=False),
        (torch.randn(4, 2, 6), torch.tensor([-2, 5])),
    ),
    "learned-packed": (
        lambda: LearnedPositionalEmbedding(9, 6, 2, 0.0, 1.5),
        (torch.randn(4, 6), 0, torch.tensor([0, 1, 8, 1])),
    ),
    "pool": (lambda: AttentionPool2d(3, 6, 2), (torch.randn(2, 6, 3, 3),)),
    "pool-resampled": (lambda: AttentionPool2d((3, 4), 6, 2, 5), (torch.randn(2, 6, 4, 2),)),
    "expanded": (lambda: RelativePositionBias(3, 4, 4), (8, 12)),
    "window": (lambda: WindowRelativePositionBias((3, 4), 3), ()),
    "window-prefix": (lambda: WindowRelativePositionBias((3, 4), 3, 1), ()),
    "expanded-legacy": (lambda: RelativePositionBias(3, 2, 4, legacy_stride=True), (4, 8)),
    "expanded-emits": (lambda: RelativePositionBias(3, 2, 4, emit_index="square"), (4, 8)),
    "window-emits": (lambda: WindowRelativePositionBias((3, 2), 3, 1, emit_index="flat"), ()),
    "window-heads-first": (lambda: WindowRelativePositionBias((3, 2), 3, heads_first=True), ()),
    "log-coordinates": (lambda: LogCoordinatePositionBias((4, 3), 3, emit_index="flat"), ()),
    "log-coordinates-cr": (
        lambda: LogCoordinatePositionBias((4, 3), 3, 16, mode="cr", prefix_tokens=2, mlp_name="mlp"),
        (),
    ),
    "t5": (lambda: T5RelativePositionBias(3), (5, 7)),
    "t5-decoding": (lambda: T5RelativePositionBias(3, 8, 20, bidirectional=False), (2, 30, 28)),
    "alibi": (lambda: AlibiBias(3), (5, 7)),
    "alibi-learnable": (lambda: AlibiBias(3, causal=True, learnable=True), (2, 7, 5)),
    # Not in place: the arguments are leaves, and used again.
    "window-softmax": (
        lambda: WindowBiasSoftmax((3, 2), 3, 1),
        (torch.randn(2, 3, 7, 7), torch.arange(7) > 1, None, 0.5, False, False),
    ),
    "window-softmax-keys": (
        lambda: WindowBiasSoftmax((3, 2), 3, key_window=(4, 3)),
        (torch.randn(2, 3, 6, 12), None, None, 1.0, True, False),
    ),
    "window-softmax-smaller": (
        lambda: WindowBiasSoftmax((3, 3), 3, heads_first=True),
        (torch.randn(4, 3, 6, 6), None, REGIONS, 1.0, False, False, [2, 3]),
    ),
    "t5-softmax": (
        lambda: T5BiasSoftmax(3),
        (torch.randn(2, 3, 5, 7), torch.randn(2, 1, 1, 7), None, 1.0, False, False),
    ),
    "t5-softmax-decoding": (
        lambda: T5BiasSoftmax(3, 8, 20, bidirectional=False),
        (torch.randn(2, 3, 2, 30), None, None, 1.0, True, False, 28),
    ),
    "alibi-softmax": (lambda: AlibiBiasSoftmax(3), (torch.randn(3, 5, 7), None, None, 0.5, True, False, 2)),
    "alibi-softmax-learnable": (
        lambda: AlibiBiasSoftmax(3, causal=True, learnable=True),
        (torch.randn(2, 3, 4, 4), None, None, 1.0, False, False),
    ),
}
EVERY = each(("build", "arguments"), MODULES.values(), ids=MODULES)


def is_floating(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    file.seek(0)
    return torch.jit.load(file)


def results(module, arguments):
    """The output and its gradients, of every floating argument and parameter."""
    given = [a.clone().requires_grad_() if is_floating(a) else a for a in arguments]
    wanted = [*filter(is_floating, given), *module.parameters()]
    output = module(*given)
    if not output.requires_grad:
        return [output]
    upstream = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad(output, wanted, upstream)]


def check_same(module, arguments, actual):
    """Equality, but where TorchScript and torch.compile have other kernels: for matrix products, and for
    interpolation without antialiasing. These differ by a few roundings of values of order 1."""
    inexact = isinstance(module, AttentionPool2d) or not module.__dict__.get("antialias", True)
    for i, (mine, theirs) in enumerate(zip(actual, results(module, arguments), strict=True)):
        if inexact:
            torch.testing.assert_close(mine, theirs, rtol=2**-20, atol=2**-20)
        elif i > 0 and isinstance(module, LogCoordinatePositionBias):
            # TorchScript differentiates the MLP by formulas of its own: a few roundings of each product.
            torch.testing.assert_close(mine, theirs, rtol=0, atol=16 * 2**-24 * theirs.abs().max().item())
        else:
            assert same_bits(mine, theirs)


@EVERY
def test_state_dict_has_parameters_and_emitted_buffers(build, arguments):
    module, other = build(), build()
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    emitted = {"relative_position_index"} if getattr(module, "emit_index", None) else set()
    if emitted and isinstance(module, LogCoordinatePositionBias):
        emitted.add("relative_coords_table")
    assert set(module.state_dict()) == set(parameters) | emitted
    if isinstance(module, SINUSOIDAL):
        assert not parameters
    else:
        assert set(buffers) == emitted
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.uniform_()
    assert other.load_state_dict(module.state_dict()) == ([], [])
    assert same_bits(other(*arguments), module(*arguments))


@EVERY
def test_parameters_given_to_a_functional_call_are_used(build, arguments):
    module = build()
    expected = module(*arguments)
    actual = functional_call(module, dict(module.state_dict()), arguments)
    if isinstance(module, AttentionPool2d):  # matrix products, whose bits depend on where tensors are
        torch.testing.assert_close(actual, expected, rtol=2**-20, atol=2**-20)
    else:
        assert same_bits(actual, expected)
    if parameters := dict(module.named_parameters()):
        changed = {key: tensor.detach() + 1 for key, tensor in parameters.items()}
        assert not torch.equal(functional_call(module, changed, arguments), expected)


@EVERY
def test_copies_are_equal_and_independent(build, arguments):
    module = build()
    expected = module(*arguments).detach().clone()
    shapes = {key: tensor.shape for key, tensor in module.state_dict().items()}
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert same_bits(other(*arguments), expected)
        assert repr(other) == repr(module)
        assert {key: tensor.shape for key, tensor in other.state_dict().items()} == shapes
        assert other.load_state_dict(module.state_dict()) == ([], [])
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
    assert same_bits(module(*arguments), expected)


@EVERY
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_saved_script_gives_the_same_values_and_gradients(build, arguments):
    module = build()
    loaded = saved_and_loaded(module)
    for _ in range(3):  # the second call profiles, the third runs optimised
        check_same(module, arguments, results(loaded, arguments))


def check_compiled(build, arguments, backend):
    module = build()
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    check_same(module, arguments, results(compiled, arguments))


@EVERY
def test_compiles_to_one_graph(build, arguments):
    check_compiled(build, arguments, "aot_eager")


@each("name", ["classic", "classic-step", "expanded", "window", "window-prefix"])
def test_compiled_by_inductor(name):
    check_compiled(*MODULES[name], "inductor")


@EVERY
@each("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(build, arguments, dtype):
    module = build().to(dtype)
    if isinstance(module, SINUSOIDAL):
        return  # their results have the dtype of an argument, or one of their own
    if type(module) is AlibiBias:
        arguments = (*(*arguments, 0)[:3], dtype)
    given = [a.to(dtype) if is_floating(a) else a for a in arguments]
    output, *gradients = results(module, given)
    assert output.is_contiguous()
    assert {tensor.dtype for tensor in (output, *gradients)} == {dtype}
    wanted = [*filter(is_floating, given), *module.parameters()]
    assert [gradient.shape for gradient in gradients] == [tensor.shape for tensor in wanted]
    for _ in range(2):
        assert same_bits(copy.deepcopy(module)(*given), output)


@EVERY
def test_empty_modules_are_made_on_the_meta_device(build, arguments):
    with torch.device("meta"):
        module = build()
    assert all(tensor.is_meta for tensor in module.state_dict().values())
    assert build().load_state_dict(module.state_dict(), assign=True) == ([], [])
    filled = build()
    with torch.device("meta"):  # what is computed for the comparison with the checkpoint is there, too
        module.load_state_dict(filled.state_dict(), assign=True)
    assert same_bits(module(*arguments), filled(*arguments))
    assert not any(tensor.is_meta for tensor in module.state_dict().values())
