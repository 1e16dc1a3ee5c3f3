"""The hash by which a tokenizer is known."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from clipjax.config.errors import UserError


def json_digest(saved: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a JSON object, whatever the order of its keys.

    >>> json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
    True
    """
    canonical = json.dumps(saved, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_vocabulary(saved: Mapping[str, Any], found: str) -> None:
    """Compares the hash of a vocabulary with the one that was saved beside it.

    Raises:
        UserError: if they differ.
    """
    if found != saved["sha256"]:
        raise UserError(
            f"tokenizer.json: the {saved['kind']} vocabulary has sha256 {found[:16]}, expected "
            f"{saved['sha256'][:16]}: the file was changed. Bring it back from a copy."
        )
