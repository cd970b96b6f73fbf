"""What earlier versions saved still loads and computes the same: docs/policy.md.

After a release: python tools/save_archive.py
"""

import io
from pathlib import Path

import machinery
import pytest
import torch
from everything import values_and_gradients
from support import each

from posenc_ext import __version__

FOLDER = Path(__file__).with_name("archives")
ARCHIVES = sorted(FOLDER.glob("*.pt"))
ROWS = {row.name: row for row in machinery.ROWS}

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit")  # TorchScript is deprecated, and in use


def load(path):
    files = {"expected": ""}
    archive = torch.jit.load(path, _extra_files=files)
    return archive, torch.load(io.BytesIO(files["expected"]))


def names(path: Path) -> str:
    return path.name


def test_this_version_has_an_archive():
    assert f"{__version__}.pt" in [path.name for path in ARCHIVES]


@each("path", ARCHIVES, ids=map(names, ARCHIVES))
def test_saved_modules_compute_what_they_computed(path):
    archive, expected = load(path)
    values = expected.pop("everything")["values"]
    torch.testing.assert_close(values_and_gradients(archive.everything), values)
    for name, saved in expected.items():
        actual = machinery.run(getattr(archive, name), saved["x"])
        machinery.compare(actual, saved["values"], rtol=1e-5, atol=1e-6)


@each("path", ARCHIVES, ids=map(names, ARCHIVES))
def test_checkpoints_load_into_the_modules_of_today(path):
    archive, expected = load(path)
    for name, saved in expected.items():
        if row := ROWS.get(saved.get("row")):
            model = row.model(seed=5)
            model.load_state_dict(getattr(archive, name).state_dict())
            machinery.compare(machinery.run(model, saved["x"]), saved["values"], rtol=1e-5, atol=1e-6)


@each("path", sorted(FOLDER.glob("*.schemas.txt")))
def test_public_schemas_only_grow(path):
    """A public op keeps its name; arguments may be added, with a default that changes nothing."""
    now = {}
    for schema in torch._C._jit_get_all_schemas():
        now[schema.name, schema.overload_name] = schema
    lost = []
    for line in path.read_text().splitlines():
        old = torch._C.parse_schema(line)
        found = now.get((old.name, old.overload_name))
        if not old.name.startswith("posenc_ext::_") and not (
            found and found.is_backward_compatible_with(old)
        ):
            lost.append(f"{line}\nis now {found}")
    assert not lost, "\n".join(lost)
