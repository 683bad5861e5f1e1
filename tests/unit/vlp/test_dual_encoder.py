"""The whole model: both encoders train together, and a folder brings back what was saved."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from vlp.batches import VideoBatch
from vlp.config import AlignmentConfig, LossConfig, ModelConfig, TextEncoderConfig, TokenizerConfig, VideoEncoderConfig
from vlp.losses import pretraining_loss
from vlp.models.dual_encoder import DualEncoder

CAPTIONS = ["a red car drives by", "the dog", "a dog and a car"]


def config(**video):
    return ModelConfig(
        embedding_dim=8,
        video=VideoEncoderConfig(
            **{"feature_dim": 10, "num_frames": 2, "width": 16, "depth": 1, "num_heads": 2, **video}
        ),
        text=TextEncoderConfig(
            pretrained_name=None,
            width=16,
            depth=1,
            num_heads=2,
            max_tokens=9,
            tokenizer=TokenizerConfig(kind="word", min_count=1),
        ),
        alignment=AlignmentConfig(attention_temperature=0.5),
    )


def build(**video):
    torch.manual_seed(0)
    return DualEncoder.build(config(**video), CAPTIONS).eval()


def videos(num_frames=2):
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[[True, True, False]], [[True, False, False]], [[True, True, True]]]).expand(3, num_frames, 3)
    return VideoBatch(
        torch.randn(3, num_frames, 3, 10, generator=generator),
        torch.rand(3, num_frames, 3, 2, 2, generator=generator).sort(dim=-2).values.flatten(-2),
        mask,
        torch.arange(num_frames).expand(3, num_frames),
    )


def test_one_step_reaches_every_parameter():
    model = build().train()
    video, text = model(videos(), model.tokenizer(CAPTIONS))
    losses = pretraining_loss(video, text, model.config.alignment, LossConfig())
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_same_seed_same_model():
    first, second = build().state_dict(), build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_folder_brings_the_model_back(tmp_path):
    model = build()
    model.save_pretrained(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors", "tokenizer"]
    loaded = DualEncoder.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    assert not loaded.training
    for found, expected in zip(
        loaded(videos(), loaded.tokenizer(CAPTIONS)), model(videos(), model.tokenizer(CAPTIONS)), strict=True
    ):
        assert torch.equal(found.global_, expected.global_)
        assert torch.equal(found.local, expected.local)


def test_saving_twice_gives_equal_bytes(tmp_path):
    for name in ("a", "b"):
        build().save_pretrained(tmp_path / name)
    for path in (p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name


def test_one_frame_pretraining_goes_on_with_eight(tmp_path):
    build(num_frames=1).save_pretrained(tmp_path)
    model = DualEncoder.from_pretrained(tmp_path, num_frames=8)
    assert model.config.video.num_frames == 8
    with torch.no_grad():
        model.encode_video(videos(num_frames=8))
    model.save_pretrained(tmp_path)
    assert DualEncoder.from_pretrained(tmp_path).video_encoder.num_frames == 8


def test_config_names_no_place_of_this_machine(tmp_path):
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, depth=1)
    weights = tmp_path / "vit.safetensors"
    save_file(vit.state_dict(), weights)
    model = build(width=192, num_heads=3, vit_checkpoint=weights)
    assert model.config.outside_files() == {"video.vit_checkpoint": weights}
    assert torch.equal(model.video_encoder.norm.weight, vit.norm.weight)
    assert torch.equal(model.video_encoder.blocks[0].attn.qkv.weight, vit.blocks[0].attn.qkv.weight)
    model.save_pretrained(tmp_path / "model")
    weights.unlink()
    assert str(tmp_path) not in (tmp_path / "model/config.json").read_text()
    loaded = DualEncoder.from_pretrained(tmp_path / "model")
    assert loaded.config.video.vit_checkpoint is None
    assert torch.equal(loaded.video_encoder.cls_token, model.video_encoder.cls_token)


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path):
        build().save_pretrained(tmp_path)
        return tmp_path

    def test_a_missing_file_is_named(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match=r"not a model folder: model\.safetensors missing"):
            DualEncoder.from_pretrained(folder)

    def test_another_format_is_refused(self, folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
        with pytest.raises(ValueError, match="format 99, this version reads 1"):
            DualEncoder.from_pretrained(folder)

    def test_weights_of_another_model_are_refused(self, folder):
        weights = load_file(folder / "model.safetensors")
        del weights["video_encoder.norm.weight"]
        save_file(weights, folder / "model.safetensors")
        with pytest.raises(ValueError, match=r"does not fit(.|\n)*video_encoder\.norm\.weight"):
            DualEncoder.from_pretrained(folder)
