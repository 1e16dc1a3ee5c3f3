"""Whether two configs describe one function, and in which field they do not."""

from collections.abc import Mapping
from typing import Any

from clipjax.config import DualEncoderConfig, to_json_dict

# What only training looks at, and how the towers are computed.
_OF_TRAINING = {
    "init_logit_scale",
    "image.patch_dropout",
    "image.batch_norm_momentum",
    "image.frozen_batch_norm",
    "decoder.parallel_share",
}
HEADS = ("matching", "self_distill")
"""Parts of a model that no embedding needs, and no other codebase has."""
# The parameters are there or not; what they started from is gone.
_PRESENCE = {"init_logit_bias", "image.layer_scale", "text.layer_scale"}


def model_facts(config: DualEncoderConfig) -> dict[str, Any]:
    """Returns what decides the embeddings, by dotted name, as JSON holds it."""
    facts: dict[str, Any] = {}
    _flatten(to_json_dict(config), "", facts)
    for name in [n for n in facts if n in _OF_TRAINING or n.startswith("compute.")]:
        del facts[name]
    for name in [n for n in facts if n.split(".")[0] in HEADS]:
        del facts[name]
    for name in _PRESENCE & facts.keys():
        facts[name] = "present" if facts[name] is not None else None
    if facts["resize"] != "pad":
        del facts["pad_value"]
    if facts["resize"] != "crop" and facts["resize_side"] is None:
        del facts["crop_offset"]  # nothing is cut away
    if facts["text.kind"] == "transformer":
        if facts["text.end_id"] is None:
            facts["text.end_id"] = facts["text.vocab_size"] - 1
        if facts["text.pool"] != "class":
            del facts["text.pad_id"]  # the tower does not look at it; the tokenizer has its own
        if facts["text.pool"] != "eot":
            del facts["text.end_id"]
    if facts["image.kind"] == "vit" and facts["image.pool"] != "coca":
        for name in ("image.pooler_queries", "image.pooler_heads"):
            facts.pop(name, None)
    return facts


def model_differences(
    found: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Returns (found, expected) of the facts that differ, by name."""
    names = dict.fromkeys((*expected, *found))
    return {
        name: (found.get(name), expected.get(name))
        for name in names
        if found.get(name) != expected.get(name)
    }


def _flatten(value: Any, name: str, facts: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for key, part in value.items():
            _flatten(part, f"{name}.{key}" if name else str(key), facts)
    else:
        facts[name] = list(value) if isinstance(value, tuple) else value
