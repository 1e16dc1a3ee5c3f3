"""tokenizer.json in the forms of RoBERTa, XLM-R and BERT, for a text tower that masks padding.

The files are made with `tokenizers`, small: the parts and the order of the marks are the published
ones.
"""

import dataclasses

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from clipjax.config import BertConfig, ModernTextConfig, TextConfig, TokenizerConfig
from clipjax.config.errors import UserError
from clipjax.data.tokenizers import make_tokenizer

LENGTH = 8
SIZES = {"context_length": LENGTH, "width": 8, "depth": 1, "num_heads": 1, "mlp_dim": 8}


def roberta():
    """Byte-level BPE between <s> and </s>."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", "<unk>", *letters, "Ġr", "Ġre", "Ġred"]
    merges = [("Ġ", "r"), ("Ġr", "e"), ("Ġre", "d")]
    model = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    model.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return model, ("a red", [0, words.index("a"), words.index("Ġred"), 2])


def xlm_roberta():
    """Unigrams of SentencePiece between <s> and </s>."""
    words = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0)]
    words += [("▁rot", -2.0), ("▁", -3.0), ("r", -4.0), ("o", -4.0), ("t", -4.0)]
    model = Tokenizer(models.Unigram(words, unk_id=3))
    model.normalizer = normalizers.NFKC()
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    model.enable_padding(pad_id=1, pad_token="<pad>")
    return model, ("a rot 漢", [0, 4, 5, 6, 3, 2])


def bert():
    """Word pieces between [CLS] and [SEP]."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "##dish", "!"]
    model = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    model.normalizer = normalizers.BertNormalizer(lowercase=True)
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    model.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return model, ("A reddish!", [2, 4, 5, 6, 7, 3])


# name: the file, its padding, what the config of the tokenizer must say
FORMS = {
    "roberta": (roberta, 1, {"pad_id": 1}),
    "xlm_roberta": (xlm_roberta, 1, {}),
    "bert": (bert, 0, {}),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokenizer.json"


@pytest.mark.parametrize("name", FORMS)
def test_rows_are_the_marks_and_the_padding_of_the_model(name, path):
    form, pad, options = FORMS[name]
    model, (text, ids) = form()
    path.write_text(model.to_str())
    tower = BertConfig(
        vocab_size=model.get_vocab_size(),
        pad_id=pad,
        first_position=0 if name == "bert" else 2,
        **SIZES,
    )
    config = TokenizerConfig(kind="huggingface", path=str(path), lowercase=False, **options)
    tokenizer = make_tokenizer(config, tower, lambda: [])
    assert tokenizer(text).tolist() == ids + [pad] * (LENGTH - len(ids))
    long = tokenizer(f"{text} " * 9).tolist()
    assert pad not in long
    assert (long[0], long[-1]) == (ids[0], ids[-1])


def test_another_padding_than_the_towers_is_refused(path):
    """RoBERTa's file does not say its padding: 0, its first mark, would fill the rows."""
    model, _ = roberta()
    path.write_text(model.to_str())
    config = TokenizerConfig(kind="huggingface", path=str(path))
    tower = BertConfig(vocab_size=model.get_vocab_size(), **SIZES)
    with pytest.raises(UserError) as error:
        make_tokenizer(config, tower, lambda: [])
    message = str(error.value)
    assert message.startswith("config.model.text.pad_id=1: the huggingface tokenizer fills a row")
    assert "with 0" in message
    assert "config.tokenizer.pad_id" in message
    assert "\n" not in message
    config = dataclasses.replace(config, pad_id=2)
    with pytest.raises(UserError, match=r"text\.pad_id=1: .* with 2"):
        make_tokenizer(config, tower, lambda: [])


def test_towers_that_see_padding_may_have_any():
    """A byte tokenizer fills with 0."""
    config, sizes = TokenizerConfig(kind="byte"), {"vocab_size": 258, **SIZES}
    make_tokenizer(config, TextConfig(pad_id=7, pool="mean", **sizes), lambda: [])
    make_tokenizer(config, BertConfig(pad_id=0, first_position=1, **sizes), lambda: [])
    for tower in (
        ModernTextConfig(pad_id=7, **sizes),
        TextConfig(pad_id=7, pool="class", **sizes),
        BertConfig(pad_id=7, first_position=0, **sizes),
    ):
        with pytest.raises(UserError, match="the byte tokenizer fills a row with 0"):
            make_tokenizer(config, tower, lambda: [])
