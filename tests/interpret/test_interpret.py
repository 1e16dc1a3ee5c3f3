"""What the package offers under its own name."""

import importlib
import pkgutil
import types

from clipjax import interpret


def test_names_are_what_they_say_whatever_was_imported_before():
    """A module of the same name would stand in front of a function once it is imported."""
    for module in pkgutil.iter_modules(interpret.__path__, "clipjax.interpret."):
        importlib.import_module(module.name)
    for name in interpret.__all__:
        found = getattr(interpret, name)
        assert not isinstance(found, types.ModuleType), name
        assert found.__name__ == name
    assert sorted(interpret.__all__) == interpret.__all__ == list(interpret._WHERE)
