"""The region encoder: what it sees, what padding must not change, and where its first weights come from."""

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import save_file

from vlp.batches import VideoBatch
from vlp.config import VideoEncoderConfig
from vlp.models.video_encoder import VideoEncoder, location_vectors, read_vit_weights, resize_temporal_embedding

SMALL = VideoEncoderConfig(feature_dim=10, num_frames=3, width=16, depth=2, num_heads=4)
# float32 over two blocks; padding changes the order of sums, not their terms.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def build(config=SMALL, embedding_dim=8):
    torch.manual_seed(0)
    encoder = VideoEncoder(config, embedding_dim).eval()
    with torch.no_grad():  # weights far from their small first values, so that every input counts
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


def random_batch(seed=0, num_videos=3, num_frames=3, num_regions=4, feature_dim=10):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(num_videos, num_frames, num_regions, 2, 2, generator=generator).sort(dim=-2).values
    mask = torch.rand(num_videos, num_frames, num_regions, generator=generator) > 0.3
    mask[:, :, 0] = True
    return VideoBatch(
        torch.randn(num_videos, num_frames, num_regions, feature_dim, generator=generator),
        corners.flatten(-2),
        mask,
        torch.arange(num_frames).expand(num_videos, num_frames),
    )


def replace(batch, **changes):
    fields = ("features", "boxes_norm", "region_mask", "frame_position")
    return VideoBatch(**{name: changes.get(name, getattr(batch, name)) for name in fields})


def assert_same(found, expected):
    """Equal embeddings at every real place; junk in padded places is nobody's business."""
    torch.testing.assert_close(found.global_, expected.global_, **CLOSE)
    torch.testing.assert_close(found.local[found.mask], expected.local[expected.mask], **CLOSE)


def test_location_vector_by_hand():
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 1.0, 1.0]])
    expected = torch.tensor([[0.1, 0.2, 0.5, 0.9, 0.4, 0.7, 0.28], [0, 0, 1, 1, 1, 1, 1]])
    torch.testing.assert_close(location_vectors(boxes), expected)


def test_shapes():
    batch = random_batch()
    encoded = build()(batch)
    assert encoded.global_.shape == (3, 8)
    assert encoded.local.shape == (3, 12, 8)
    assert torch.equal(encoded.mask, batch.region_mask.flatten(1))
    assert encoded.local.dtype == torch.float32


def test_region_token_is_feature_plus_location_plus_moment():
    encoder, batch = build(), random_batch()
    tokens = encoder._tokens(batch)
    v, f, r = 1, 2, 0
    expected = (
        encoder.region_projection(batch.features[v, f, r])
        + encoder.location_projection(location_vectors(batch.boxes_norm[v, f, r]))
        + encoder.temporal_embedding[2]
    )
    torch.testing.assert_close(tokens[v, f, r], expected)


def test_padding_holds_nothing():
    encoder, batch = build(), random_batch()
    expected = encoder(batch)
    features, boxes = batch.features.clone(), batch.boxes_norm.clone()
    features[~batch.region_mask], boxes[~batch.region_mask] = float("nan"), float("inf")
    features.requires_grad_()
    found = encoder(replace(batch, features=features, boxes_norm=boxes))
    assert_same(found, expected)
    (found.global_.sum() + found.local[found.mask].sum()).backward()
    assert torch.isfinite(features.grad).all()
    assert not features.grad[~batch.region_mask].any()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000), more_regions=st.integers(0, 3), frames=st.integers(1, 2), more_frames=st.integers(0, 1)
)
def test_more_padding_changes_nothing(seed, more_regions, frames, more_frames):
    batch = random_batch(seed, num_frames=frames)
    pad = torch.nn.functional.pad
    longer = VideoBatch(
        pad(batch.features, (0, 0, 0, more_regions, 0, more_frames), value=float("nan")),
        pad(batch.boxes_norm, (0, 0, 0, more_regions, 0, more_frames)),
        pad(batch.region_mask, (0, more_regions, 0, more_frames)),
        pad(batch.frame_position, (0, more_frames)),
    )
    encoder = build()
    assert_same(encoder(longer), encoder(batch))


def test_a_video_does_not_depend_on_its_batch():
    encoder, batch = build(), random_batch()
    together = encoder(batch)
    alone = encoder(replace(batch, **{n: getattr(batch, n)[[1]] for n in vars(batch)}))
    torch.testing.assert_close(alone.global_[0], together.global_[1], **CLOSE)


def test_order_of_regions_does_not_matter_but_the_frame_does():
    encoder, batch = build(), random_batch()
    expected = encoder(batch).global_
    shuffled = replace(
        batch, **{n: getattr(batch, n)[:, :, [2, 0, 3, 1]] for n in vars(batch) if n != "frame_position"}
    )
    torch.testing.assert_close(encoder(shuffled).global_, expected, **CLOSE)
    reversed_ = encoder(replace(batch, frame_position=batch.frame_position.flip(1))).global_
    assert (reversed_ - expected).abs().max() > 1e-3


def test_regions_of_all_frames_see_each_other():
    encoder, batch = build(), random_batch()
    features = batch.features.clone()
    features[:, 0, 0] += 1
    changed = (encoder(replace(batch, features=features)).local - encoder(batch).local).abs().amax(-1)
    assert (changed[encoder(batch).mask] > 1e-6).all()


def test_half_precision_features_are_read():
    encoder, batch = build(), random_batch()
    half = encoder(replace(batch, features=batch.features.half()))
    full = encoder(replace(batch, features=batch.features.half().float()))
    assert half.local.dtype == torch.float32
    assert torch.equal(half.global_, full.global_)


def test_wrong_batches_are_refused():
    encoder, batch = build(), random_batch()
    with pytest.raises(ValueError, match="feature_dim 10"):
        encoder(random_batch(feature_dim=11))
    with pytest.raises(ValueError, match="4 frames but the encoder knows 3"):
        encoder(random_batch(num_frames=4))
    with pytest.raises(ValueError, match=r"region_mask must have shape \(3, 3, 4\)"):
        replace(batch, region_mask=batch.region_mask[:, :2])
    with pytest.raises(ValueError, match="must be bool"):
        replace(batch, region_mask=batch.region_mask.float())


class TestTemporalEmbedding:
    def test_one_frame_is_copied(self):
        one = torch.randn(1, 5)
        torch.testing.assert_close(resize_temporal_embedding(one, 8), one.expand(8, 5))

    def test_by_hand(self):
        # Two frames stand at 1/4 and 3/4 of the clip, four at 1/8, 3/8, 5/8, 7/8.
        two = torch.tensor([[0.0], [4.0]])
        torch.testing.assert_close(resize_temporal_embedding(two, 4), torch.tensor([[0.0], [1.0], [3.0], [4.0]]))
        four = torch.tensor([[0.0], [1.0], [3.0], [4.0]])
        torch.testing.assert_close(resize_temporal_embedding(four, 2), torch.tensor([[0.5], [3.5]]))

    def test_equal_counts_change_nothing(self):
        embedding = torch.randn(4, 5)
        assert resize_temporal_embedding(embedding, 4) is embedding

    def test_none_is_refused(self):
        with pytest.raises(ValueError, match="at least 1"):
            resize_temporal_embedding(torch.zeros(2, 3), 0)

    def test_pretrained_on_one_frame_sees_eight_as_it_saw_one(self):
        encoder = build(SMALL.model_copy(update={"num_frames": 1}))
        batch = random_batch(num_frames=1)
        expected = encoder(batch)
        encoder.resize_temporal(8)
        later = encoder(replace(batch, frame_position=torch.full_like(batch.frame_position, 5)))
        assert encoder.num_frames == 8
        assert encoder.temporal_embedding.requires_grad
        assert_same(later, expected)


class TestViT:
    config = VideoEncoderConfig(feature_dim=10, num_frames=2, width=192, depth=2, num_heads=3)

    @pytest.fixture
    def vit(self):
        torch.manual_seed(1)
        vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, depth=2)
        torch.nn.init.normal_(vit.cls_token)
        return vit

    def test_blocks_compute_what_the_vit_computes(self, vit):
        encoder = VideoEncoder(self.config, 8).eval()
        encoder.load_vit(vit.state_dict())
        tokens = torch.randn(2, 6, 192)
        with torch.no_grad():
            expected = vit.eval().norm(vit.blocks(tokens))
            for block in encoder.blocks:
                tokens = block(tokens, attn_mask=torch.ones(2, 1, 1, 6, dtype=torch.bool))
            torch.testing.assert_close(encoder.norm(tokens), expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(encoder.cls_token, vit.cls_token + vit.pos_embed[:, :1])

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_reads_a_local_file(self, vit, tmp_path, suffix):
        path = tmp_path / f"vit{suffix}"
        if suffix == ".pth":
            torch.save(vit.state_dict(), path)
        else:
            save_file(vit.state_dict(), path)
        weights = read_vit_weights(self.config.model_copy(update={"vit_checkpoint": path}))
        assert torch.equal(weights["blocks.1.mlp.fc2.weight"], vit.blocks[1].mlp.fc2.weight)

    def test_absent_and_misshaped_keys_are_all_named(self, vit):
        weights = vit.state_dict()
        del weights["blocks.0.attn.qkv.bias"]
        weights["norm.weight"] = torch.ones(7)
        with pytest.raises(
            ValueError, match=r"blocks\.0\.attn\.qkv\.bias is absent; norm\.weight is \(7,\), not \(192,\)"
        ):
            VideoEncoder(self.config, 8).load_vit(weights)

    def test_absent_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"video\.vit_checkpoint"):
            read_vit_weights(self.config.model_copy(update={"vit_checkpoint": tmp_path / "none.pth"}))

    def test_no_source(self):
        assert read_vit_weights(self.config) is None


def test_default_size_is_the_papers():
    with torch.device("meta"):
        encoder = VideoEncoder(VideoEncoderConfig(), 256)
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    assert millions == pytest.approx(86.8, abs=0.1)  # paper Table 3


def test_config_reports_all_problems_at_once():
    with pytest.raises(ValidationError, match="width 10 is not a multiple of num_heads 4; vit_name and vit_checkpoint"):
        VideoEncoderConfig(width=10, num_heads=4, vit_name="a", vit_checkpoint="b")
