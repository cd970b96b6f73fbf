"""Writes tests/archives/VERSION.pt and VERSION.schemas.txt, which later versions must load: once per release.

    python tools/save_archive.py

The archive is TorchScript: every module of the table in tests/machinery.py and every public op, with what
each computes for an input, forward and backward. It is written with the oldest supported torch: torch loads
what an older version saved, but not what a newer one did.
"""

import io
import re
import sys
import warnings
import zipfile
from pathlib import Path

import torch

import posenc_ext

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from everything import Everything, inputs, values_and_gradients
from machinery import ROWS, run

ROOT = Path(__file__).resolve().parents[1]


class Archive(torch.nn.Module):
    """A folder of scripted modules."""

    def forward(self) -> None:
        pass


def without_debug_files(archive: bytes) -> bytes:
    """Drops the paths and source lines of this machine."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(result, "w") as new:
        for item in old.infolist():
            if not item.filename.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(item.filename), old.read(item))
    return result.getvalue()


def main() -> None:
    config = (ROOT / "cmake" / "build_config.cmake").read_text()
    oldest = re.search(r"POSENC_TORCH_VERSIONS ([\d.]+)", config)[1]
    if not torch.__version__.startswith(f"{oldest}."):
        sys.exit(
            f"an archive is written with the oldest supported torch, {oldest}; this is {torch.__version__}"
        )
    archive, expected = Archive(), {}
    for number, row in enumerate(ROWS):
        model, x = row.model(), row.x()
        setattr(archive, f"module{number}", model)
        values = run(model, x)
        expected[f"module{number}"] = {"row": row.name, "x": x, "values": values}
    archive.everything = Everything()
    x, timesteps = inputs()
    values = values_and_gradients(archive.everything)
    expected["everything"] = {"x": x, "timesteps": timesteps, "values": values}

    attached, saved = io.BytesIO(), io.BytesIO()
    torch.save(expected, attached)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and in use
        files = {"expected": attached.getvalue()}
        torch.jit.save(torch.jit.script(archive), saved, _extra_files=files)
    path = ROOT / "tests" / "archives" / f"{posenc_ext.__version__}.pt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(without_debug_files(saved.getvalue()))
    path.with_suffix(".schemas.txt").write_text((ROOT / "tests" / "schemas.txt").read_text())
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
