"""Audits a model by its name: python -m posenc_ext.audit timm/swin_tiny_patch4_window7_224"""

import argparse
import importlib
import re
import sys
from pathlib import Path

import torch
from torch import nn

from . import audit

_EXAMPLES = """
models, built with random weights, without downloads:
  torchvision/swin_t                  torchvision.models.get_model("swin_t")
  timm/swin_tiny_patch4_window7_224   timm.create_model("swin_tiny_patch4_window7_224")
  transformers/t5                     a model type, or a config class: the model of its default config
  transformers/T5EncoderModel         a model class, with its default config
  diffusers/UNet2DConditionModel      a model class, with its default arguments

exit status: 0 nothing wrong, 1 findings, 2 error
"""


def build(name: str) -> nn.Module:
    """The model that a name such as timm/swin_tiny_patch4_window7_224 stands for, with random weights.

    Raises:
        ValueError: the library is unknown or not installed, or has no such model.
    """
    library, _, model = name.partition("/")
    builders = {
        "torchvision": lambda lib: lib.models.get_model(model, weights=None),
        "timm": lambda lib: lib.create_model(model, pretrained=False),
        "transformers": lambda lib: _transformers(lib, model),
        "diffusers": lambda lib: getattr(lib, model)(),
    }
    if library not in builders or not model:
        raise ValueError(f"a model is LIBRARY/NAME with a library of {', '.join(builders)}, got {name}")
    try:
        module = importlib.import_module(library)
    except ImportError as error:
        raise ValueError(f"{library} cannot be imported: {error}") from None
    try:
        if library in ("transformers", "diffusers"):  # defaults are often those of the largest model
            with torch.device("meta"):
                _check_memory(name, builders[library](module))
        return builders[library](module)
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{library} has no model {model} with default arguments: {error}") from None


def _transformers(lib, name: str) -> nn.Module:
    if name in lib.CONFIG_MAPPING:
        return lib.AutoModel.from_config(lib.CONFIG_MAPPING[name]())
    cls = getattr(lib, name)
    return (
        lib.AutoModel.from_config(cls()) if issubclass(cls, lib.PreTrainedConfig) else cls(cls.config_class())
    )


def _check_memory(name: str, model: nn.Module) -> None:
    needed = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    available = 1024 * int(re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())[1])
    if needed > available / 2:
        advice = "build a smaller one, and call posenc_ext.audit(model)"
        raise ValueError(
            f"{name} takes {needed / 1e9:.0f} GB, half of the memory is {available / 2e9:.0f}: {advice}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m posenc_ext.audit",
        description="Lists what is wrong with the position encodings and biases of a model.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="LIBRARY/NAME")
    parser.add_argument(
        "--dtype", choices=["float32", "float16", "bfloat16"], help="converts the model first"
    )
    parser.add_argument("--json", action="store_true", help="prints JSON")
    arguments = parser.parse_args()
    try:
        model = build(arguments.model)
    except ValueError as error:
        print(f"posenc_ext.audit: {error}", file=sys.stderr)
        return 2
    if arguments.dtype:
        model = model.to(getattr(torch, arguments.dtype))
    result = audit(model)
    print(result.to_json() if arguments.json else result)
    return 1 if result.rows else 0


if __name__ == "__main__":
    sys.exit(main())
