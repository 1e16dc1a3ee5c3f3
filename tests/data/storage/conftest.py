"""What the tests of storages share."""

import pytest

from clipjax.data.storage import open_storage
from clipjax.data.storage import remote as remote_module


@pytest.fixture
def quick(monkeypatch):
    """Retries wait hundredths of a second."""
    monkeypatch.setattr(remote_module, "_FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(remote_module, "_MAX_DELAY_SECONDS", 0.05)


@pytest.fixture
def opened(remote_config):
    """A function that opens a storage with fields of `RemoteConfig`; all are closed at the end."""
    storages = []

    def make(**fields):
        storages.append(open_storage(["http://127.0.0.1/"], remote_config(**fields)))
        return storages[-1]

    yield make
    for storage in storages:
        storage.close()
