"""Machineries that trace, script, export and compile a module, and call the result at other sizes."""

import warnings

import torch
from machinery import Row, compare, machinery, run
from torch import Tensor, fx, nn

GRAPHS = "Graphs"


def calls(row: Row) -> list[Tensor]:
    return [row.x(size) for size in range(len(row.sizes))]


@machinery(GRAPHS, "`torch.jit.trace`, called at other sizes")
def traced(row: Row) -> None:
    """The lengths are followed, also from a trace at another size than the native one."""
    model = row.model().eval()
    for x in calls(row)[:2]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of checks of sizes, which are made while tracing alone
            trace = torch.jit.trace(model, x, check_trace=False)
        for other in calls(row):
            compare(run(trace, other), run(model, other), rtol=1e-6, atol=1e-6)


@machinery(GRAPHS, "`torch.jit.script`, `freeze`, `optimize_for_inference`")
def scripted(row: Row) -> None:
    for training in (True, False):
        model = row.model().train(training)
        script = torch.jit.script(model)
        for x in calls(row):
            for _ in range(2):  # the second call is the profiled one
                compare(run(script, x), run(model, x), rtol=1e-6, atol=1e-6)
    frozen = torch.jit.freeze(torch.jit.script(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimized = torch.jit.optimize_for_inference(torch.jit.script(model))
    for x in calls(row):
        for graph in (frozen, optimized):
            compare({"output": graph(x)}, run(model, x, False), rtol=1e-6, atol=1e-6)


class Leaves(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return type(module).__module__.startswith("posenc_ext") or super().is_leaf_module(module, name)


@machinery(GRAPHS, "`torch.fx`, the module as a leaf")
def fx_leaf(row: Row) -> None:
    model = row.model().train()
    graph = fx.GraphModule(model, Leaves().trace(model))
    for x in calls(row):
        compare(run(graph, x), run(model, x))


@machinery(GRAPHS, "`torch.export`, every size dynamic, the native one too")
def exported(row: Row) -> None:
    model = row.model().eval()
    sizes = torch.tensor(row.sizes)
    varying = [d for d in range(sizes.shape[1]) if len(set(sizes[:, d].tolist())) > 1]
    dynamic = {"x": dict.fromkeys(varying, torch.export.Dim.DYNAMIC)}
    for x in calls(row)[:2]:
        program = torch.export.export(model, (x,), dynamic_shapes=dynamic)
        for other in calls(row)[:2]:
            compare({"output": program.module()(other)}, run(model, other, False), rtol=1e-6, atol=1e-6)


def check_compiled(row: Row, training: bool) -> None:
    model = row.model().train(training)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for x in calls(row)[:2]:  # a size of 1 is compiled anew
        with torch.set_grad_enabled(training):
            actual = {k.replace("_orig_mod.", ""): v for k, v in run(compiled, x, training).items()}
            compare(actual, run(model, x, training), rtol=1e-5, atol=1e-6)


@machinery(GRAPHS, "`torch.compile(fullgraph=True, dynamic=True)`, inference")
def compiled_inference(row: Row) -> None:
    check_compiled(row, training=False)


@machinery(GRAPHS, "`torch.compile(fullgraph=True, dynamic=True)`, training")
def compiled_training(row: Row) -> None:
    check_compiled(row, training=True)
