"""open_clip's HFTextEncoder: BERT, RoBERTa and XLM-R of transformers, and a projection."""

from clipjax.config import BertConfig, DualEncoderConfig, UsageError
from clipjax.interchange.bert import encoder, pooler
from clipjax.interchange.layout import Entry, Layout, linear
from clipjax.interchange.open_clip.clip import FORMAT


def hf_text_layout(config: DualEncoderConfig, prefix: str) -> Layout:
    """Returns the layout of an encoder of transformers as text tower.

    Args:
        config: of the model.
        prefix: "text."; the top, where CLIP has its own tower, holds no such encoder.

    Raises:
        UsageError: if open_clip has no such tower.
    """
    bert = config.text
    assert isinstance(bert, BertConfig)
    if not prefix:
        raise UsageError(
            "model.text.kind='bert': open_clip keeps such a tower in a CustomTextCLIP only. "
            "Write with custom_text=True."
        )
    if bert.projection == "linear_bias":
        raise UsageError(
            "model.text.projection='linear_bias': open_clip's projections have no bias. Expected "
            "'linear', 'mlp' or 'none'."
        )
    theirs = f"{prefix}transformer"
    entries: list[Entry] = [*encoder("text", theirs, depth=bert.depth)]
    if bert.has_pooler:
        entries += pooler("text", theirs)
    if bert.projection == "mlp":
        entries += linear("text/hidden", f"{prefix}proj.0", bias=False)
        entries += linear("text/project", f"{prefix}proj.2", bias=False)
    elif bert.projection == "linear":
        entries += linear("text/project", f"{prefix}proj", bias=False)
    # Older versions of transformers wrote these counts along with the parameters.
    counts = (f"{theirs}.embeddings.position_ids", f"{theirs}.embeddings.token_type_ids")
    return Layout(format=FORMAT, entries=tuple(entries), ignored=counts)
