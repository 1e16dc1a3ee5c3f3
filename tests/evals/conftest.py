"""Fits of probes take milliseconds, unless threads wait for each other on a busy machine."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="module")
def one_blas_thread():
    """BLAS on one thread."""
    with threadpool_limits(1):
        yield
