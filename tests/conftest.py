"""Fixtures for all tests."""

import pytest

from losskit.registry import registry


@pytest.fixture
def losses():
    """The registry of all losses; what a test registers is forgotten after it."""
    from losskit.testing import isolated_registry

    with isolated_registry():
        yield registry


@pytest.fixture
def _every_size(monkeypatch):
    """Kernels take inputs of every size, in blocks so small that there are several."""
    from tests.kernels import take_every_size

    take_every_size(monkeypatch)
