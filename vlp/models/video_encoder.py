"""Detected regions to embeddings: a ViT over the regions of all frames (paper section 3.1, Eq. 1-2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vlp.batches import Encoded, VideoBatch
from vlp.config import VideoEncoderConfig


class VideoEncoder(nn.Module):
    """Region token = projected feature + projected location (Eq. 1) + P_m, after one [CLS] for the whole video (Eq. 2).

    Every token attends to [CLS] and to every real region of every frame; padded regions are keys of nobody. A final
    LayerNorm and a linear projection without bias follow. Differs from the release: joint attention instead of
    attention within a frame, the final LayerNorm, the area as seventh number of the location (all as the paper prints).
    """

    def __init__(self, config: VideoEncoderConfig, embedding_dim: int) -> None:
        super().__init__()
        width = config.width
        self.region_projection = nn.Linear(config.feature_dim, width)
        self.location_projection = nn.Linear(7, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.temporal_embedding = nn.Parameter(torch.empty(config.num_frames, width))
        drop_paths = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.num_heads,
                config.mlp_ratio,
                qkv_bias=True,
                proj_drop=config.dropout,
                drop_path=drop_path,
                norm_layer=_layer_norm,
            )
            for drop_path in drop_paths
        )
        self.norm = _layer_norm(width)
        self.projection = nn.Linear(width, embedding_dim, bias=False)
        self.apply(_init_linear)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.temporal_embedding, std=0.02)

    @property
    def num_frames(self) -> int:
        """Temporal positions the encoder knows."""
        return self.temporal_embedding.shape[0]

    def forward(self, batch: VideoBatch) -> Encoded:
        """Encode B videos: global_ (B, d) from [CLS], local (B, F * R, d), frame by frame.

        Raises:
            ValueError: features of another width than the encoder's, or more frames than temporal positions.
        """
        self._check(batch)
        num_videos, num_frames, num_regions, _ = batch.features.shape
        mask = batch.region_mask.reshape(num_videos, num_frames * num_regions)
        tokens = self._tokens(batch).reshape(num_videos, num_frames * num_regions, -1)
        tokens = torch.cat([self.cls_token.expand(num_videos, -1, -1).to(tokens.dtype), tokens], dim=1)
        keys = F.pad(mask, (1, 0), value=True)[:, None, None, :]
        for block in self.blocks:
            tokens = block(tokens, attn_mask=keys)
        embeddings = self.projection(self.norm(tokens))
        return Encoded(embeddings[:, 0], embeddings[:, 1:], mask)

    def _tokens(self, batch: VideoBatch) -> Tensor:
        """(B, F, R, width): o'_n = o_n + l'_n + P_m; padded slots are set to zero first, whatever they hold."""
        padded = ~batch.region_mask[..., None]
        dtype = self.region_projection.weight.dtype
        regions = self.region_projection(batch.features.to(dtype).masked_fill(padded, 0))
        locations = self.location_projection(location_vectors(batch.boxes_norm.to(dtype)).masked_fill(padded, 0))
        moments = self.temporal_embedding[batch.frame_position][:, :, None]
        return regions + locations + moments

    def _check(self, batch: VideoBatch) -> None:
        width, expected = batch.features.shape[-1], self.region_projection.in_features
        if width != expected:
            raise ValueError(f"regions have {width} numbers but the encoder was built for feature_dim {expected}")
        if batch.features.shape[1] > self.num_frames:
            raise ValueError(
                f"{batch.features.shape[1]} frames but the encoder knows {self.num_frames} temporal positions: "
                "load it with a larger num_frames, which inflates the temporal embedding"
            )

    @torch.no_grad()
    def resize_temporal(self, num_frames: int) -> None:
        """Give the encoder num_frames temporal positions, keeping what it learned (see resize_temporal_embedding)."""
        resized = resize_temporal_embedding(self.temporal_embedding, num_frames)
        self.temporal_embedding = nn.Parameter(resized.clone())

    @torch.no_grad()
    def load_vit(self, weights: Mapping[str, Tensor]) -> None:
        """Start [CLS], the blocks and the final LayerNorm from timm ViT weights; projections keep their fresh weights.

        [CLS] becomes cls_token + pos_embed[0], which is what the ViT's first block saw at that place.

        Raises:
            ValueError: keys that are absent or of another shape, all of them named.
        """
        names = [name for name in self.state_dict() if name.startswith(("blocks.", "norm."))]
        own = self.state_dict()
        problems = [f"{name} is absent" for name in [*names, "cls_token", "pos_embed"] if name not in weights]
        problems += [
            f"{name} is {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
            for name in [*names, "cls_token"]
            if name in weights and weights[name].shape != own[name].shape
        ]
        if problems:
            raise ValueError(f"these ViT weights do not fit the video encoder: {'; '.join(problems)}")
        self.load_state_dict({name: weights[name] for name in names}, strict=False)
        self.cls_token.copy_(weights["cls_token"] + weights["pos_embed"][:, :1])


def location_vectors(boxes_norm: Tensor) -> Tensor:
    """(..., 4) xyxy in [0, 1] to (..., 7) [x1, y1, x2, y2, w, h, w * h], the paper's l_n."""
    sizes = boxes_norm[..., 2:] - boxes_norm[..., :2]
    return torch.cat([boxes_norm, sizes, sizes.prod(dim=-1, keepdim=True)], dim=-1)


def resize_temporal_embedding(embedding: Tensor, num_frames: int) -> Tensor:
    """(F, d) temporal embedding to (num_frames, d), by linear interpolation over normalised time.

    Frame i of F stands at (i + 0.5) / F, the middle of its segment; beyond the outermost frames the outermost value
    holds. One frame is therefore copied to all, and equal counts change nothing. The release appends zeros instead:
    seven of eight frames then lose what pre-training added to every region token.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, found {num_frames}")
    if num_frames == embedding.shape[0]:
        return embedding
    return F.interpolate(embedding.T[None], size=num_frames, mode="linear", align_corners=False)[0].T


def read_vit_weights(config: VideoEncoderConfig) -> dict[str, Tensor] | None:
    """The timm ViT weights the configuration names, or None where it names none."""
    if config.vit_checkpoint is not None:
        path = Path(config.vit_checkpoint)
        if not path.is_file():
            raise FileNotFoundError(f"no ViT weights at {path} (video.vit_checkpoint)")
        return timm.models.load_state_dict(str(path), weights_only=True)
    if config.vit_name is not None:
        return timm.create_model(config.vit_name, pretrained=True, num_classes=0).state_dict()
    return None


def _layer_norm(width: int, **kwargs) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, **kwargs)  # ViT's epsilon; torch's default is 1e-5


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
