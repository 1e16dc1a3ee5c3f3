import json
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config.errors import UserError
from clipjax.data.tokenizers.bpe import BpeTokenizer

CAPTIONS = [
    f"a {colour} {thing} on the {place}"
    for colour in ("red", "dark green", "blue")
    for thing in ("square", "circle", "café", "smiling face")
    for place in ("left", "right", "table")
]


def train(captions=CAPTIONS, vocab_size=330, context_length=64, lowercase=True):
    return BpeTokenizer.train(
        captions, vocab_size=vocab_size, context_length=context_length, lowercase=lowercase
    )


@pytest.fixture(scope="module")
def trained():
    return train()


def body(tokenizer, text):
    values = tokenizer(text).tolist()
    start, end = tokenizer.vocab_size - 2, tokenizer.vocab_size - 1
    assert values[0] == start
    assert values.count(start) == values.count(end) == 1
    return values[1 : values.index(end)]


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_every_text_goes_there_and_back_up_to_normalisation(text):
    """No text is out of vocabulary: NFC, stripped, and a leading space stand for its start."""
    tokenizer = train(lowercase=False, context_length=300)
    normal = unicodedata.normalize("NFC", text).strip()
    back = tokenizer._model.decode(body(tokenizer, text))
    assert back.strip() == normal.strip()


def test_equal_words_have_equal_ids_wherever_they_stand(trained):
    alone = body(trained, "square")
    assert body(trained, "  SQUARE ") == alone
    assert body(trained, "red square")[-len(alone) :] == alone


def test_frequent_words_become_single_ids(trained):
    assert len(body(trained, "red")) == 1
    assert len(body(trained, "a red square")) == 3


def test_training_again_gives_the_same_ids(trained):
    assert train().to_json() == trained.to_json()


def test_training_does_not_depend_on_the_order_of_the_captions(trained):
    assert train(CAPTIONS[::-1]).to_json() == trained.to_json()


@pytest.mark.slow
def test_another_process_gives_the_same_ids(trained, make_child_env):
    """Hash seeds differ between processes; merges must not."""
    program = (
        "import json, sys; from clipjax.data.tokenizers.bpe import BpeTokenizer; "
        "t = BpeTokenizer.train(json.load(sys.stdin), context_length=64, vocab_size=330, "
        "lowercase=True); print(json.dumps(t.to_json()))"
    )
    for seed in ("1", "2"):
        child = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(CAPTIONS),
            env={**make_child_env(), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert json.loads(child.stdout) == trained.to_json()


@pytest.mark.parametrize("vocab_size", [258, 259, 330, 5000])
@pytest.mark.parametrize("captions", [[], ["a"], CAPTIONS])
def test_ids_of_a_text_never_reach_the_marks(captions, vocab_size):
    """A small corpus leaves ids unused; a full one stops before the last two."""
    tokenizer = train(captions, vocab_size)
    assert tokenizer._model.get_vocab_size() <= vocab_size - 2
    used = {i for text in [*CAPTIONS, "zebra 漢字 \x00 🎈"] for i in body(tokenizer, text)}
    assert max(used) < vocab_size - 2
    assert tokenizer("").tolist()[:3] == [vocab_size - 2, vocab_size - 1, 0]


def test_a_vocabulary_without_room_for_the_bytes_is_an_error():
    with pytest.raises(UserError, match=r"config\.model\.text\.vocab_size=257.*at least 258"):
        train(vocab_size=257)


def test_a_cut_text_keeps_its_end():
    ids = train(context_length=5)("a red square on the left of the table").tolist()
    assert ids[0] == 328
    assert ids[-1] == 329
    assert ids[1:4] == body(train(), "a red square")


def test_threads_may_share_an_instance(trained):
    texts = [f"a {i} square {'x' * (i % 30)}" for i in range(500)]
    alone = [trained(text).tolist() for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = [ids.tolist() for ids in pool.map(trained, texts)]
    assert together == alone


def test_ids_are_int32_rows_of_the_context(trained):
    assert trained("a").dtype == np.int32
    assert trained("a").shape == (64,)
