"""What the models of transformers share: the blocks, and the sizes of a tower."""

from typing import Any

from clipjax.config import TextConfig, ViTConfig
from clipjax.interchange.layout import Entry, linear, norm, same, stacked_linear
from clipjax.interchange.transformers.fields import THEIR_ACTIVATION, Section

FORMAT = "transformers"
# Buffers that older files hold: 0, 1, 2, ...
POSITION_IDS = "*.embeddings.position_ids"


def block(ours: str, theirs: str) -> tuple[Entry, ...]:
    """Returns the entries of one encoder layer."""
    names = [f"{theirs}.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")]
    return (
        *norm(f"{ours}/ln_1", f"{theirs}.layer_norm1"),
        *stacked_linear(f"{ours}/attn/qkv", names),
        *linear(f"{ours}/attn/out", f"{theirs}.self_attn.out_proj", input_axes=2),
        *norm(f"{ours}/ln_2", f"{theirs}.layer_norm2"),
        *mlp(f"{ours}/mlp", f"{theirs}.mlp"),
    )


def mlp(ours: str, theirs: str) -> tuple[Entry, ...]:
    """Returns the entries of an MLP."""
    return (*linear(f"{ours}/fc1", f"{theirs}.fc1"), *linear(f"{ours}/fc2", f"{theirs}.fc2"))


def encoder(tower: str, theirs: str, depth: int) -> tuple[Entry, ...]:
    """Returns the entries of all layers of a tower."""
    return tuple(
        entry
        for layer in range(depth)
        for entry in block(f"{tower}/blocks/stack/{layer}", f"{theirs}.encoder.layers.{layer}")
    )


def text_embeddings() -> tuple[Entry, ...]:
    """Returns the entries of tokens, their positions, and the last norm."""
    return (
        same("text/embedding", "text_model.embeddings.token_embedding.weight"),
        same("text/positions", "text_model.embeddings.position_embedding.weight"),
        *norm("text/norm", "text_model.final_layer_norm"),
    )


def read_sides(image_size: int, patch_size: int) -> dict[str, Any]:
    """Returns the fields of images and patches; what fills no patch is left out there."""
    return {
        "image_size": image_size,
        "patch_size": patch_size,
        "crop_remainder": image_size % max(patch_size, 1) > 0,
    }


def read_tower(section: Section) -> dict[str, Any]:
    """Returns the fields that towers of both kinds have here."""
    return {
        "width": section.integer("hidden_size"),
        "depth": section.integer("num_hidden_layers"),
        "num_heads": section.integer("num_attention_heads"),
        "mlp_dim": section.integer("intermediate_size"),
        "activation": section.activation(),
        "norm_eps": section.number("layer_norm_eps"),
    }


def written_tower(tower: ViTConfig | TextConfig) -> dict[str, Any]:
    """Returns the fields that towers of both kinds have there."""
    return {
        "hidden_size": tower.width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.num_heads,
        "intermediate_size": tower.mlp_dim,
        "hidden_act": THEIR_ACTIVATION[tower.activation],
        "layer_norm_eps": tower.norm_eps,
        "attention_dropout": 0.0,
    }
