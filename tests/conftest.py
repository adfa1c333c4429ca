"""What all tests share."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def single_precision():
    """Equalities are tested in float32 on every machine and in every process that a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSSF_PRECISION", "float32")
        yield
