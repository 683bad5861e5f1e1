"""The whole model: a video encoder and a text encoder into one space, and the folder it is kept in.

A model folder holds `config.json` (the ModelConfig and the text backbone's own architecture), `model.safetensors` and
`tokenizer/`; it needs no other file to be loaded again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from vlp.batches import Encoded, TextBatch, VideoBatch
from vlp.config import ModelConfig
from vlp.models.text_encoder import TextEncoder
from vlp.models.tokenizer import CaptionTokenizer, build_tokenizer
from vlp.models.video_encoder import VideoEncoder, read_vit_weights

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FOLDER = "config.json", "model.safetensors", "tokenizer"
FORMAT = 1  # of config.json
# Where the first weights came from: files of one machine, meaningless once the weights are in the folder.
_SOURCES = {"video": {"vit_checkpoint"}, "text": {"pretrained_folder"}}


class DualEncoder(nn.Module):
    """Video encoder, text encoder and tokenizer. `build` starts one, `from_pretrained` loads one."""

    def __init__(
        self, config: ModelConfig, tokenizer: CaptionTokenizer, *, text_architecture: PretrainedConfig | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.video_encoder = VideoEncoder(config.video, config.embedding_dim)
        self.text_encoder = TextEncoder(
            config.text,
            config.embedding_dim,
            vocabulary_size=tokenizer.vocabulary_size,
            pad_id=tokenizer.pad_id,
            architecture=text_architecture,
        )

    @classmethod
    def build(cls, config: ModelConfig, captions: Iterable[str] | None = None) -> DualEncoder:
        """A model to train: pretrained parts where the configuration names them, fresh weights elsewhere.

        Args:
            config: the model.
            captions: training captions, for the vocabulary of a text encoder from scratch.
        """
        model = cls(config, build_tokenizer(config.text, captions))
        vit = read_vit_weights(config.video)
        if vit is not None:
            model.video_encoder.load_vit(vit)
        return model

    def encode_video(self, batch: VideoBatch) -> Encoded:
        """Embeddings of B videos: global_ (B, d), local (B, F * R, d)."""
        return self.video_encoder(batch)

    def encode_text(self, batch: TextBatch) -> Encoded:
        """Embeddings of T captions: global_ (T, d), local (T, L - 1, d)."""
        return self.text_encoder(batch)

    def forward(self, videos: VideoBatch, texts: TextBatch) -> tuple[Encoded, Encoded]:
        """Both, for wrappers that see only `forward` (DistributedDataParallel)."""
        return self.encode_video(videos), self.encode_text(texts)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json, model.safetensors and tokenizer/ into folder (made if absent)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder / TOKENIZER_FOLDER)
        save_file({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}, folder / WEIGHTS_FILE)
        content = {
            "format": FORMAT,
            "model": self.config.model_dump(mode="json", exclude=_SOURCES),
            "text_architecture": self.text_encoder.backbone.config.to_diff_dict(),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, num_frames: int | None = None) -> DualEncoder:
        """Load a model folder, on the CPU, in evaluation mode.

        Args:
            folder: what save_pretrained wrote.
            num_frames: temporal positions to have afterwards (1 in pre-training, 8 in fine-tuning); None keeps them.
        Raises:
            FileNotFoundError: not a model folder.
            ValueError: a folder of another format, or weights that do not belong to its config.json.
        """
        folder = Path(folder)
        absent = [n for n in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FOLDER) if not (folder / n).exists()]
        if absent:
            raise FileNotFoundError(f"{folder} is not a model folder: {', '.join(absent)} missing")
        content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise ValueError(f"{folder}: config.json has format {content.get('format')!r}, this version reads {FORMAT}")
        config = ModelConfig.model_validate(content["model"])
        architecture = dict(content["text_architecture"])
        text_architecture = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
        tokenizer = CaptionTokenizer.load(folder / TOKENIZER_FOLDER, config.text.max_tokens)
        model = cls(config, tokenizer, text_architecture=text_architecture)
        _load_weights(model, folder / WEIGHTS_FILE)
        if num_frames is not None:
            model.resize_temporal(num_frames)
        return model.eval()

    def resize_temporal(self, num_frames: int) -> None:
        """Change the number of temporal positions, in weights and configuration (see resize_temporal_embedding)."""
        self.video_encoder.resize_temporal(num_frames)
        video = self.config.video.model_copy(update={"num_frames": num_frames})
        self.config = self.config.model_copy(update={"video": video})


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the config.json beside it: {error}") from error
