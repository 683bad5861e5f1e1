"""Captions to tokens: what counts as a word, and the same vocabulary on every run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from vlp.config import TextEncoderConfig, TokenizerConfig
from vlp.models.tokenizer import CaptionTokenizer, build_tokenizer, train_tokenizer

CAPTIONS = ["A red car drives by", "a dog runs, fast!", "the red dog", "a car and a dog"]
REPOSITORY = Path(__file__).resolve().parents[3]


def word_tokenizer(captions=CAPTIONS, max_tokens=10, **config):
    config = TokenizerConfig(**{"kind": "word", "min_count": 1, **config})
    return CaptionTokenizer(train_tokenizer(captions, config), max_tokens)


def pieces(tokenizer, caption):
    return tokenizer.tokens(tokenizer([caption]).input_ids[0].tolist())


def test_pads_to_the_longest_and_masks_what_is_no_word():
    tokenizer = word_tokenizer()
    batch = tokenizer(["the red dog", "a car"])
    assert [tokenizer.tokens(row.tolist()) for row in batch.input_ids] == [
        ["[CLS]", "the", "red", "dog", "[SEP]"],
        ["[CLS]", "a", "car", "[SEP]", "[PAD]"],
    ]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.word_mask.tolist() == [[False, True, True, True, False], [False, True, True, False, False]]


def test_long_captions_are_cut_and_keep_their_end_token():
    tokenizer = word_tokenizer(max_tokens=4)
    assert pieces(tokenizer, "the red dog runs fast") == ["[CLS]", "the", "red", "[SEP]"]


def test_unknown_words_are_words():
    tokenizer = word_tokenizer()
    batch = tokenizer(["zebra"])
    assert pieces(tokenizer, "zebra") == ["[CLS]", "[UNK]", "[SEP]"]
    assert batch.word_mask.tolist() == [[False, True, False]]


def test_captions_without_a_word_are_named():
    tokenizer = word_tokenizer()
    captions = ["a dog", "", "   ", "a car", "\u200b"]
    assert tokenizer.wordless(captions) == [1, 2, 4]
    with pytest.raises(ValueError, match="caption 1 of 5 has no word: ''"):
        tokenizer(captions)
    with pytest.raises(ValueError, match="non-empty sequence"):
        tokenizer([])
    with pytest.raises(ValueError, match="non-empty sequence"):
        tokenizer("a dog")


def test_word_vocabulary_by_hand():
    # Counts: a 4, dog 3, car 2, red 2, the rest 1 (punctuation too).
    tokenizer = word_tokenizer(vocabulary_size=9)
    expected = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "car", "red"]
    assert tokenizer.tokens(range(9)) == expected
    assert tokenizer.vocabulary_size == 9
    assert word_tokenizer(min_count=3).vocabulary_size == 7


def test_pieces_spell_unseen_words():
    config = TokenizerConfig(kind="wordpiece", vocabulary_size=60, min_count=1)
    tokenizer = CaptionTokenizer(train_tokenizer(CAPTIONS * 5, config), 20)
    assert tokenizer.vocabulary_size <= 60
    assert "dog" in pieces(tokenizer, "a dog")
    spelled = pieces(tokenizer, "dograc")[1:-1]
    assert "[UNK]" not in spelled
    assert "".join(p.removeprefix("##") for p in spelled) == "dograc"


def test_too_small_a_vocabulary_for_the_characters():
    with pytest.raises(ValueError, match=r"raise tokenizer\.vocabulary_size \(now 10\)"):
        train_tokenizer(CAPTIONS, TokenizerConfig(kind="wordpiece", vocabulary_size=10, min_count=1))


def test_order_of_captions_does_not_matter():
    for kind in ("word", "wordpiece"):
        config = TokenizerConfig(kind=kind, vocabulary_size=70, min_count=1)
        forward, backward = train_tokenizer(CAPTIONS, config), train_tokenizer(CAPTIONS[::-1], config)
        assert forward.get_vocab() == backward.get_vocab()


def test_every_process_learns_the_same_pieces():
    # The trainer of the tokenizers library does not: its hash maps are seeded by chance.
    words = [f"{a}{b}{c}" for a in "abcd" for b in "efgh" for c in "ijkl"]  # ties everywhere
    code = (
        "import json; from vlp.config import TokenizerConfig; from vlp.models.tokenizer import train_tokenizer; "
        f"t = train_tokenizer({words!r}, TokenizerConfig(vocabulary_size=80, min_count=1)); print(json.dumps(t.get_vocab()))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, check=True)
    config = TokenizerConfig(vocabulary_size=80, min_count=1)
    assert json.loads(run.stdout) == train_tokenizer(words, config).get_vocab()


def test_saved_and_loaded(tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.save(tmp_path)
    loaded = CaptionTokenizer.load(tmp_path, max_tokens=10)
    for field in ("input_ids", "attention_mask", "word_mask"):
        assert getattr(loaded(CAPTIONS), field).equal(getattr(tokenizer(CAPTIONS), field))
    with pytest.raises(FileNotFoundError, match="no tokenizer folder"):
        CaptionTokenizer.load(tmp_path / "absent", max_tokens=10)


def test_use_does_not_change_what_is_saved(tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.save(tmp_path / "fresh")
    before = tokenizer(CAPTIONS).input_ids
    tokenizer.save(tmp_path / "used")
    for path in (tmp_path / "fresh").iterdir():
        assert path.read_bytes() == (tmp_path / "used" / path.name).read_bytes()
    assert tokenizer(CAPTIONS).input_ids.equal(before)


def test_from_scratch_needs_captions():
    with pytest.raises(ValueError, match="pass the training captions"):
        build_tokenizer(TextEncoderConfig(pretrained_name=None))


def test_a_folder_needs_a_name():
    with pytest.raises(ValidationError, match="pretrained_name does not say which model"):
        TextEncoderConfig(pretrained_folder="somewhere")
