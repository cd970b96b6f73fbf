"""Prints how posenc_ext was built and what this machine provides, and tests every op.

    python -m posenc_ext.info [--json] [--no-test]

The exit status is 1 if an op fails its test, or if posenc_ext cannot be imported.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import torch

from . import _C, __version__, _build, ops
from ._self_test import self_test

# The environment variables that the library reads.
SWITCHES = ("POSENC_CPU_ISA", "POSENC_GRAIN_KIB", "POSENC_NT", "POSENC_THP")

# Dispatch keys, and the word that is printed for each.
_KERNELS = {
    "CPU": "CPU",
    "CUDA": "CUDA",
    "Meta": "Meta",
    "Autograd": "Autograd",
    "CompositeImplicitAutograd": "Composite",
    "CompositeExplicitAutograd": "Composite",
}


def _cuda_here() -> str:
    if torch.version.cuda is None:
        return "no (this torch is built without CUDA)"
    if not torch.cuda.is_available():
        return f"{torch.version.cuda} in torch, but no usable GPU"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{torch.version.cuda} on {', '.join(devices)}"


def facts() -> dict[str, str]:
    cuda = f"{_build.CUDA_VERSION}, archs {_build.CUDA_ARCHS}" if _build.WITH_CUDA else "no (CPU only)"
    return {
        "posenc_ext": __version__,
        "library": _C.build_info(),
        "built for torch": _build.TORCH_VERSION,
        "running torch": str(torch.__version__),
        "built with CUDA": cuda,
        "CUDA here": _cuda_here(),
        "CPU level": _C.cpu_level(),
        "threads": str(torch.get_num_threads()),
        "compiler": json.loads(_C.build_info())["compiler"],
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "folder": str(Path(__file__).resolve().parent),
    }


def switches() -> dict[str, str | None]:
    """The value of each environment variable that the library reads; None: not set."""
    return {name: os.environ.get(name) for name in SWITCHES}


def kernels() -> dict[str, list[str]]:
    """The kernels that the dispatcher has for each overload of each op, also of the private ones.

    Composite: the op calls other ops, and their kernels.
    """
    schemas = [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("posenc_ext::")]
    names = sorted(".".join(filter(None, (schema.name, schema.overload_name))) for schema in schemas)
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {
        name.removeprefix("posenc_ext::"): [word for key, word in _KERNELS.items() if has_kernel(name, key)]
        for name in names
    }


def _kernels_by_public_op() -> dict[str, list[str]]:
    """For each public op, the kernels of its overloads and of the op in place."""
    found: dict[str, set[str]] = {name: set() for name in sorted(ops.__all__)}
    for name, words in kernels().items():
        found.get(name.partition(".")[0].rstrip("_"), set()).update(words)
    order = list(dict.fromkeys(_KERNELS.values()))
    return {name: sorted(words, key=order.index) for name, words in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser("python -m posenc_ext.info", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON, with every overload and private op")
    parser.add_argument("--no-test", action="store_true", help="do not test the ops")
    arguments = parser.parse_args()

    start = time.perf_counter()
    results = {} if arguments.no_test else self_test()
    seconds = time.perf_counter() - start
    verdicts = [verdict for tested in results.values() for verdict in tested.values()]
    passed = verdicts.count("PASS")

    if arguments.json:
        found = {**facts(), "library": json.loads(_C.build_info()), "switches": switches()}
        print(json.dumps({**found, "kernels": kernels(), "self-test": results}, indent=2))
        return passed < len(verdicts)

    values = ", ".join(f"{name}={value or 'not set'}" for name, value in switches().items())
    for name, value in {**facts(), "switches": values}.items():
        print(f"{name:<16} {value}")
    print(f"\n{'op':<24} {'kernels':<30} self-test")
    for name, words in _kernels_by_public_op().items():
        tested = ", ".join(f"{device} {verdict}" for device, verdict in results.get(name, {}).items())
        print(f"{name:<24} {' '.join(words):<30} {tested or '-'}")
    if verdicts:
        print(f"\n{passed} of {len(verdicts)} tests passed in {seconds:.2f} s")
    return passed < len(verdicts)


if __name__ == "__main__":
    sys.exit(main())
