"""Every module of posenc_ext.nn under every machinery of training: docs/machinery.md."""

import pytest
from machinery import MACHINERIES, ROWS, failures
from machinery_distributed import distributed_failures
from machinery_table import PAGE, page

import posenc_ext.nn

# torch.jit and torch.ao.quantization are deprecated, and used.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:Full backward hook is firing"
)


def report(found: dict[str, str]) -> str:
    return "\n" + "\n".join(f"{name}: {error}" for name, error in found.items())


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory):
    """Failures of every distributed machinery, from two processes that are started once."""
    return distributed_failures(tmp_path_factory.mktemp("distributed"))


@pytest.mark.parametrize("column", MACHINERIES, ids=lambda column: column.check.__name__)
def test_every_module(column, request):
    found = request.getfixturevalue("two_processes")[column.name] if column.distributed else failures(column)
    assert not found, report(found)


def test_every_class_has_a_row():
    assert {row.name.split(",")[0].split(".")[0] for row in ROWS} == set(posenc_ext.nn.__all__)


def test_every_machinery_tests_something():
    for column in MACHINERIES:
        assert any(column.reason(row) is None for row in ROWS), column.name
        unused = [reason for reason, applies in column.unless.items() if not any(map(applies, ROWS))]
        assert not unused, f"{column.name}: {unused}"


def test_the_page_is_this_table():
    assert PAGE.read_text() == page(), "renew it: python tools/machinery_table.py --write"
