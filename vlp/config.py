"""Configuration of the dual encoder and of its objective.

Fields marked as placement say where a file lies, never what it holds: `ModelConfig.outside_files` lists those files so
that a caller can put their digests into the fingerprint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PLACEMENT = {"placement": True}
MODEL_SUFFIXES = {".json", ".txt", ".model", ".safetensors", ".bin"}  # what transformers reads from a model folder


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VideoEncoderConfig(Config):
    """Transformer over the regions of all frames (paper section 3.1; the defaults are ViT-B)."""

    feature_dim: int = Field(2048, ge=1, description="Width of one detector feature (numbers per region).")
    num_frames: int = Field(8, ge=1, description="Temporal positions the model knows (frames per clip).")
    width: int = Field(768, ge=1, description="Transformer width (numbers per token).")
    depth: int = Field(12, ge=1, description="Transformer blocks (count).")
    num_heads: int = Field(12, ge=1, description="Attention heads per block (count).")
    mlp_ratio: float = Field(4.0, gt=0, description="Hidden width of a block's MLP over the transformer width (ratio).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout after attention and MLP projections (probability).")
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="Stochastic depth of the last block, growing linearly from 0."
    )
    vit_name: str | None = Field(None, description="timm model whose published weights start the blocks (hub name).")
    vit_checkpoint: Path | None = Field(
        None,
        description="Local timm ViT weights (.safetensors, .pth) that start the blocks (path).",
        json_schema_extra=PLACEMENT,
    )

    @model_validator(mode="after")
    def _check(self) -> VideoEncoderConfig:
        problems = []
        if self.width % self.num_heads:
            problems.append(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        if self.vit_name and self.vit_checkpoint:
            problems.append("vit_name and vit_checkpoint are both set: give one")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class TokenizerConfig(Config):
    """Vocabulary built from the training captions; unused when the text encoder is a pretrained one."""

    kind: Literal["word", "wordpiece"] = Field(
        "wordpiece", description="'word': frequent whole words, the rest [UNK]; 'wordpiece': learned pieces."
    )
    vocabulary_size: int = Field(30522, ge=6, description="Largest number of entries, special tokens included (count).")
    min_count: int = Field(2, ge=1, description="Fewest occurrences for a word or a merge to be kept (count).")


class TextEncoderConfig(Config):
    """BERT-like encoder: pretrained by name or folder, or a DistilBERT of these sizes trained from scratch."""

    pretrained_name: str | None = Field(
        "distilbert-base-uncased", description="Hub name of a pretrained encoder and its tokenizer; null: from scratch."
    )
    pretrained_folder: Path | None = Field(
        None,
        description="Local copy of pretrained_name, encoder and tokenizer, read instead of the hub (path).",
        json_schema_extra=PLACEMENT,
    )
    width: int = Field(768, ge=1, description="Transformer width, from scratch only (numbers per token).")
    depth: int = Field(6, ge=1, description="Transformer layers, from scratch only (count).")
    num_heads: int = Field(12, ge=1, description="Attention heads per layer, from scratch only (count).")
    mlp_ratio: float = Field(4.0, gt=0, description="MLP hidden width over width, from scratch only (ratio).")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of the encoder, from scratch only (probability).")
    max_tokens: int = Field(100, ge=3, description="Longest caption, [CLS] and [SEP] included; longer is cut (tokens).")
    tokenizer: TokenizerConfig = Field(TokenizerConfig(), description="Vocabulary, from scratch only.")

    @property
    def from_scratch(self) -> bool:
        return self.pretrained_name is None and self.pretrained_folder is None

    @model_validator(mode="after")
    def _check(self) -> TextEncoderConfig:
        if self.pretrained_folder is not None and "pretrained_name" not in self.model_fields_set:
            raise ValueError(
                f"pretrained_folder is {self.pretrained_folder} but pretrained_name does not say which model that is: "
                "set it too, so that records tell the encoder apart"
            )
        if self.from_scratch and self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self


class AlignmentConfig(Config):
    """How videos and captions are compared, in training and in ranking alike."""

    use_local: bool = Field(True, description="Use the region-word alignment (False: the paper's Base, [CLS] only).")
    attention_temperature: float = Field(
        1.0, gt=0, description="Divides the cosines before the softmax of Eq. 6 (paper 1, the release 0.05; no unit)."
    )


class LossConfig(Config):
    """Contrastive objective (Eq. 4, 5, 9, 12)."""

    temperature: float = Field(
        0.05, gt=0, description="Sigma of Eq. 4-5 and 9/12 (no unit; the paper prints no value)."
    )


class ModelConfig(Config):
    """The dual encoder: what defines its weights and its similarities."""

    embedding_dim: int = Field(256, ge=1, description="Width of the shared space of videos and captions (numbers).")
    video: VideoEncoderConfig = Field(VideoEncoderConfig(), description="Video encoder.")
    text: TextEncoderConfig = Field(TextEncoderConfig(), description="Text encoder.")
    alignment: AlignmentConfig = Field(AlignmentConfig(), description="Similarity of a video and a caption.")

    def outside_files(self) -> dict[str, Path]:
        """Files outside the workspace that decide the first weights, by dotted field; their digests are identity."""
        files = {}
        if self.video.vit_checkpoint is not None:
            files["video.vit_checkpoint"] = self.video.vit_checkpoint
        if self.text.pretrained_folder is not None:
            folder = self.text.pretrained_folder
            for path in sorted(p for p in folder.glob("*") if p.suffix in MODEL_SUFFIXES):
                files[f"text.pretrained_folder/{path.name}"] = path
        return files
