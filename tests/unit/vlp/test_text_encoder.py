"""The caption encoder: padding, projection, and its three sources (sizes, a folder, a saved architecture)."""

import pytest
import torch
from transformers import BertConfig, BertModel

from vlp.batches import TextBatch
from vlp.config import TextEncoderConfig, TokenizerConfig
from vlp.models.text_encoder import TextEncoder, scratch_architecture
from vlp.models.tokenizer import CaptionTokenizer, train_tokenizer

CAPTIONS = ["a red car drives by", "the dog", "a dog and a car"]
SMALL = TextEncoderConfig(pretrained_name=None, width=16, depth=2, num_heads=4, max_tokens=12)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # float32; padding changes the order of sums


@pytest.fixture(scope="module")
def tokenizer():
    return CaptionTokenizer(train_tokenizer(CAPTIONS, TokenizerConfig(kind="word", min_count=1)), 12)


def build(tokenizer, config=SMALL, **kwargs):
    torch.manual_seed(0)
    return TextEncoder(config, 8, vocabulary_size=tokenizer.vocabulary_size, pad_id=tokenizer.pad_id, **kwargs).eval()


@pytest.fixture
def bert_folder(tokenizer, tmp_path):
    torch.manual_seed(3)
    architecture = BertConfig(
        vocab_size=tokenizer.vocabulary_size,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
    )
    BertModel(architecture).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    return tmp_path


def test_global_is_the_first_token_and_local_the_others(tokenizer):
    encoder, batch = build(tokenizer), tokenizer(CAPTIONS)
    encoded = encoder(batch)
    hidden = encoder.backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    linear = encoder.projection[1]
    expected = hidden.relu() @ linear.weight.T + linear.bias
    torch.testing.assert_close(encoded.global_, expected[:, 0])
    torch.testing.assert_close(encoded.local, expected[:, 1:])
    assert torch.equal(encoded.mask, batch.word_mask[:, 1:])
    assert encoded.mask.sum(1).tolist() == [5, 2, 5]


def test_padding_changes_nothing(tokenizer):
    encoder = build(tokenizer)
    together = encoder(tokenizer(CAPTIONS))
    for i, caption in enumerate(CAPTIONS):
        alone = encoder(tokenizer([caption]))
        torch.testing.assert_close(alone.global_[0], together.global_[i], **CLOSE)
        torch.testing.assert_close(alone.local[0][alone.mask[0]], together.local[i][together.mask[i]], **CLOSE)


def test_ids_in_padding_change_nothing(tokenizer):
    encoder, batch = build(tokenizer), tokenizer(CAPTIONS)
    ids = batch.input_ids.masked_fill(batch.attention_mask == 0, 7)
    expected, found = encoder(batch), encoder(TextBatch(ids, batch.attention_mask, batch.word_mask))
    torch.testing.assert_close(found.global_, expected.global_, **CLOSE)
    torch.testing.assert_close(found.local[found.mask], expected.local[expected.mask], **CLOSE)


def test_every_parameter_learns(tokenizer):
    encoder = build(tokenizer)
    encoded = encoder(tokenizer(CAPTIONS))
    (encoded.global_.sum() + encoded.local.square().sum()).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_reads_a_pretrained_folder(tokenizer, bert_folder):
    config = TextEncoderConfig(pretrained_name="tiny", pretrained_folder=bert_folder, max_tokens=12)
    encoder, batch = build(tokenizer, config), tokenizer(CAPTIONS)
    bert = BertModel.from_pretrained(bert_folder).eval()
    hidden = bert(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    torch.testing.assert_close(encoder(batch).local, encoder.projection(hidden)[:, 1:])
    assert not any("pooler" in name for name, _ in encoder.named_parameters())


def test_built_from_a_saved_architecture(tokenizer):
    architecture = scratch_architecture(SMALL, tokenizer.vocabulary_size)
    other = TextEncoderConfig(pretrained_name="not asked", max_tokens=12)
    encoder = build(tokenizer, other, architecture=architecture)
    assert encoder.backbone.config.dim == 16
    encoder.load_state_dict(build(tokenizer).state_dict())


def test_what_does_not_fit_is_refused(tokenizer, bert_folder):
    long = TextEncoderConfig(pretrained_name="tiny", pretrained_folder=bert_folder, max_tokens=41)
    with pytest.raises(ValueError, match="max_tokens is 41 but the text encoder knows 40 positions"):
        build(tokenizer, long)
    config = TextEncoderConfig(pretrained_name="tiny", pretrained_folder=bert_folder, max_tokens=12)
    with pytest.raises(ValueError, match="do not belong together"):
        TextEncoder(config, 8, vocabulary_size=10_000)


def test_text_batches_are_checked(tokenizer):
    batch = tokenizer(CAPTIONS)
    with pytest.raises(ValueError, match="word_mask must have shape"):
        TextBatch(batch.input_ids, batch.attention_mask, batch.word_mask[:, 1:])
    with pytest.raises(ValueError, match="must be bool"):
        TextBatch(batch.input_ids, batch.attention_mask, batch.attention_mask)
