"""Captions to embeddings: a BERT-like encoder and one projection (paper Eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModel, DistilBertConfig, PretrainedConfig

from vlp.batches import Encoded, TextBatch
from vlp.config import TextEncoderConfig


class TextEncoder(nn.Module):
    """Transformer over tokens, then ReLU -> Linear on every token as in the release (the paper prints no projection).

    Args:
        config: sizes or the pretrained source.
        embedding_dim: width of the shared space.
        vocabulary_size: entries of the tokenizer.
        architecture: a saved backbone's own configuration; the backbone is then built from it, with fresh weights.
        pad_id: id of the padding token.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        embedding_dim: int,
        *,
        vocabulary_size: int,
        pad_id: int = 0,
        architecture: PretrainedConfig | None = None,
    ) -> None:
        super().__init__()
        if architecture is not None:
            self.backbone = AutoModel.from_config(architecture)
        elif config.from_scratch:
            self.backbone = AutoModel.from_config(scratch_architecture(config, vocabulary_size, pad_id))
        else:
            source = str(config.pretrained_folder or config.pretrained_name)
            self.backbone = AutoModel.from_pretrained(source, dtype=torch.float32)
        if hasattr(self.backbone, "pooler"):
            self.backbone.pooler = None  # BERT's extra layer on [CLS]: unused here, and DDP refuses unused parameters
        _check_fits(self.backbone.config, vocabulary_size, config.max_tokens)
        self.projection = nn.Sequential(nn.ReLU(), nn.Linear(self.backbone.config.hidden_size, embedding_dim))

    def forward(self, batch: TextBatch) -> Encoded:
        """Encode T captions: global_ (T, d) from [CLS], local (T, L - 1, d) from the tokens after it.

        The last [SEP] and padding keep their slots in `local`; `mask` leaves them out.
        """
        hidden: Tensor = self.backbone(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, return_dict=True
        ).last_hidden_state
        embeddings = self.projection(hidden)
        return Encoded(embeddings[:, 0], embeddings[:, 1:], batch.word_mask[:, 1:])


def scratch_architecture(config: TextEncoderConfig, vocabulary_size: int, pad_id: int = 0) -> DistilBertConfig:
    """A DistilBERT of the configured sizes for this vocabulary."""
    return DistilBertConfig(
        vocab_size=vocabulary_size,
        pad_token_id=pad_id,
        max_position_embeddings=config.max_tokens,
        dim=config.width,
        n_layers=config.depth,
        n_heads=config.num_heads,
        hidden_dim=round(config.width * config.mlp_ratio),
        dropout=config.dropout,
        attention_dropout=config.dropout,
    )


def _check_fits(architecture: PretrainedConfig, vocabulary_size: int, max_tokens: int) -> None:
    positions = architecture.max_position_embeddings
    if max_tokens > positions:
        raise ValueError(
            f"max_tokens is {max_tokens} but the text encoder knows {positions} positions: lower max_tokens"
        )
    if vocabulary_size > architecture.vocab_size:
        raise ValueError(
            f"the tokenizer has {vocabulary_size} entries but the text encoder embeds {architecture.vocab_size}: "
            "they do not belong together"
        )
