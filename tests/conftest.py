"""What all tests share."""

import pytest

from mssf_lite.detector import precision


@pytest.fixture(scope="session", autouse=True)
def single_precision():
    """Equalities are tested in float32 on every machine, whatever would be fast on this one."""
    with precision("float32"):
        yield
