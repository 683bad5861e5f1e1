"""Captions to tokens: a pretrained encoder's tokenizer, or a vocabulary built from the training captions.

The vocabulary travels with the model (folder `tokenizer/`), so that a search a year later splits words alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vlp.batches import TextBatch
from vlp.config import TextEncoderConfig, TokenizerConfig

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class CaptionTokenizer:
    """Turns captions into a TextBatch padded to the longest of them, cut at max_tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        missing = [
            name for name in ("pad_token_id", "cls_token_id", "sep_token_id") if getattr(tokenizer, name) is None
        ]
        if missing:
            raise ValueError(f"the tokenizer has no {', '.join(missing)}: a BERT-like tokenizer is needed")
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @property
    def vocabulary_size(self) -> int:
        return len(self.tokenizer)

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id

    def __call__(self, captions: Sequence[str]) -> TextBatch:
        """Tokenize T captions.

        Returns:
            TextBatch of (T, L), L the longest caption of this call, at most max_tokens.
        Raises:
            ValueError: no caption, or a caption without a single word (it could not be aligned).
        """
        if isinstance(captions, str) or not captions:
            raise ValueError("expected a non-empty sequence of captions")
        encoded = self.tokenizer(
            list(captions), padding="longest", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        input_ids, attention_mask = encoded["input_ids"], encoded["attention_mask"]
        word_mask = attention_mask.bool() & ~torch.isin(input_ids, torch.tensor(self._outside))
        empty = (~word_mask.any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"caption {empty[0]} of {len(captions)} has no word: {captions[empty[0]]!r}")
        return TextBatch(input_ids, attention_mask, word_mask)

    def wordless(self, captions: Sequence[str]) -> list[int]:
        """Positions of captions without a word (empty, or only characters the tokenizer strips): leave them out."""
        if not captions:
            return []
        ids = self.tokenizer(list(captions), truncation=True, max_length=self.max_tokens)["input_ids"]
        return [i for i, caption in enumerate(ids) if not set(caption) - set(self._outside)]

    @property
    def _outside(self) -> list[int]:
        return [self.pad_id, self.tokenizer.cls_token_id, self.tokenizer.sep_token_id]

    def tokens(self, input_ids: Sequence[int]) -> list[str]:
        """The pieces behind ids, as the vocabulary writes them (a WordPiece continuation starts with ##)."""
        return self.tokenizer.convert_ids_to_tokens(list(input_ids))

    def save(self, folder: Path) -> None:
        # The padding and truncation of the last call would be written too: equal vocabularies, unequal bytes.
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_padding()
            backend.no_truncation()
        self.tokenizer.save_pretrained(str(folder))

    @classmethod
    def load(cls, folder: Path, max_tokens: int) -> CaptionTokenizer:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"no tokenizer folder {folder}")
        return cls(AutoTokenizer.from_pretrained(str(folder)), max_tokens)


def build_tokenizer(config: TextEncoderConfig, captions: Iterable[str] | None = None) -> CaptionTokenizer:
    """The tokenizer the configuration asks for; captions are needed for an encoder from scratch only."""
    if not config.from_scratch:
        source = str(config.pretrained_folder or config.pretrained_name)
        return CaptionTokenizer(AutoTokenizer.from_pretrained(source), config.max_tokens)
    if captions is None:
        raise ValueError("a text encoder from scratch builds its vocabulary from captions: pass the training captions")
    return CaptionTokenizer(train_tokenizer(captions, config.tokenizer), config.max_tokens)


def train_tokenizer(captions: Iterable[str], config: TokenizerConfig) -> PreTrainedTokenizerFast:
    """Build a lower-casing BERT-style tokenizer from captions; equal captions in any order give equal vocabularies."""
    counts = _count_words(captions)
    if config.kind == "word":
        tokenizer = _bert_style(models.WordLevel(_word_vocabulary(counts, config), unk_token=UNK))
    else:
        tokenizer = _bert_style(models.WordPiece(_piece_vocabulary(counts, config), unk_token=UNK))
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", special_tokens=[(CLS, ids[CLS]), (SEP, ids[SEP])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNK, cls_token=CLS, sep_token=SEP, mask_token=MASK
    )


def _bert_style(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _count_words(captions: Iterable[str]) -> Counter[str]:
    splitter = _bert_style(models.WordLevel(unk_token=UNK))
    counts: Counter[str] = Counter()
    for caption in captions:
        text = splitter.normalizer.normalize_str(caption)
        counts.update(word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(text))
    return counts


def _word_vocabulary(counts: Counter[str], config: TokenizerConfig) -> dict[str, int]:
    kept = sorted((word for word, n in counts.items() if n >= config.min_count), key=lambda word: (-counts[word], word))
    entries = [*SPECIAL_TOKENS, *kept[: config.vocabulary_size - len(SPECIAL_TOKENS)]]
    return {token: i for i, token in enumerate(entries)}


def _piece_vocabulary(counts: Counter[str], config: TokenizerConfig) -> dict[str, int]:
    """Learn WordPiece merges, the same ones on every run.

    The trainer numbers the `##x` characters in the order of a randomly seeded hash map and breaks ties between merges by
    number, so vocabularies of equal captions differ from run to run. Naming every character beforehand, as special
    tokens in sorted order, takes the chance out of it.
    """
    characters: Counter[str] = Counter()
    for word, n in counts.items():
        for character in word:
            characters[character] += n
    alphabet = sorted(character for character, n in characters.items() if n >= config.min_count)
    named = [*SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in alphabet)]
    if len(named) > config.vocabulary_size:
        raise ValueError(
            f"the captions use {len(alphabet)} characters, which alone take {len(named)} entries: raise "
            f"tokenizer.vocabulary_size (now {config.vocabulary_size}) or tokenizer.min_count (now {config.min_count})"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocabulary_size,
        min_frequency=config.min_count,
        special_tokens=named,
        initial_alphabet=alphabet,
        limit_alphabet=max(len(alphabet), 1),
        show_progress=False,
    )
    learner = _bert_style(models.WordPiece(unk_token=UNK))
    learner.train_from_iterator((" ".join([word] * n) for word, n in sorted(counts.items())), trainer)
    return learner.get_vocab()
