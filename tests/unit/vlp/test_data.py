"""Which clips take part, and what a batch of them holds."""

import numpy as np
import pytest
import torch

from storage.errors import MissingRowError
from storage.manifest import Manifest
from storage.region_store import RegionStore
from vlp.data import ClipSource, TrainingData, has_word
from vlp.models.tokenizer import build_tokenizer
from vlp.train_config import DataConfig, TrainConfig


@pytest.fixture(scope="module")
def spec(tmp_path_factory, write_corpus):
    """40 clips, 32 of them for training, one without regions, one without captions, three captions each."""
    return write_corpus(tmp_path_factory.mktemp("data"), 40, failed=(2, 35), speechless=(7,), captions=3)


@pytest.fixture(scope="module")
def image_spec(tmp_path_factory, write_corpus):
    return write_corpus(tmp_path_factory.mktemp("images"), 30, name="images", num_frames=1, seed=5)


def open_source(spec, **config) -> ClipSource:
    return ClipSource.open(spec, DataConfig(**config), with_captions=True)


def training_data(specs, tiny_model, **config) -> TrainingData:
    train = TrainConfig.model_validate({"batch_size": 8, **config})
    sources = [ClipSource.open(spec, train.data, with_captions=True) for spec in specs]
    captions = [caption for source in sources for texts in source.captions for caption in texts]
    return TrainingData(sources, train, build_tokenizer(tiny_model.text, captions))


def same(first, second) -> bool:
    return (
        first.source == second.source
        and first.clip_ids == second.clip_ids
        and all(
            torch.equal(getattr(a, name), getattr(b, name))
            for a, b in ((first.videos, second.videos), (first.texts, second.texts))
            for name in vars(a)
        )
    )


class TestPlan:
    def test_failed_and_speechless_clips_leave_with_a_reason(self, spec):
        source = open_source(spec)
        assert len(source) == 30
        assert [(e.row, e.clip_id, e.reason) for e in source.excluded] == [
            (2, "tiny-002", "unreadable"),
            (7, "tiny-007", "empty_caption"),
        ]
        assert source.excluded[0].message == "no frame decodes"
        assert not {2, 7} & set(source.rows.tolist())

    def test_embedding_needs_no_captions_and_all_splits_can_be_asked_for(self, spec):
        everything = spec.model_copy(update={"split": None})
        source = ClipSource.open(everything, DataConfig(), with_captions=False)
        assert [e.row for e in source.excluded] == [2, 35]
        assert len(source) == 38

    def test_rows_that_were_never_written_are_no_failures(self, tmp_path, write_corpus):
        partial = write_corpus(tmp_path, 40, pending=(1,))
        with pytest.raises(MissingRowError, match=r"clip 'tiny-016' \(row 16\)"):
            open_source(partial)

    def test_a_store_of_another_manifest_is_refused(self, spec, image_spec):
        with pytest.raises(ValueError, match="another manifest"):
            open_source(spec.model_copy(update={"manifest": image_spec.manifest}))

    def test_an_unusable_split_is_refused(self, tmp_path, write_corpus):
        spec = write_corpus(tmp_path, 5, failed=(4,)).model_copy(update={"split": "test"})
        with pytest.raises(ValueError, match="none of the 1 clips"):
            open_source(spec)

    def test_an_unknown_split_names_the_known_ones(self, spec):
        with pytest.raises(KeyError, match="'test', 'train'"):
            open_source(spec.model_copy(update={"split": "tran"}))

    def test_more_frames_than_stored_are_refused(self, image_spec):
        with pytest.raises(ValueError, match="holds 1 per clip"):
            open_source(image_spec, num_frames=2)

    def test_identity_follows_content_not_place(self, spec, tmp_path, write_corpus):
        moved = write_corpus(tmp_path, 40, failed=(2, 35), speechless=(7,), captions=3)
        other = write_corpus(tmp_path / "other", 40, failed=(2, 3), speechless=(7,), captions=3)
        assert open_source(spec).identity() == open_source(moved).identity()
        assert open_source(spec).identity() != open_source(other).identity()


class TestVideoBatch:
    def test_it_holds_what_the_store_holds(self, spec):
        source = open_source(spec, num_frames=4, frame_sampling="uniform")
        places = np.array([5, 0, 3])
        batch = source.video_batch(places)
        stored = RegionStore(spec.regions).read(source.rows[places])
        expected = np.arange(3) < stored.num_regions[..., None]
        assert np.array_equal(batch.region_mask, expected)
        assert np.array_equal(batch.features.numpy()[expected], stored.features[expected])
        in_pixels = batch.boxes_norm.numpy()[expected] * np.array([64, 48, 64, 48])
        np.testing.assert_allclose(in_pixels, stored.boxes[expected], rtol=1e-6)
        assert batch.frame_position.tolist() == [[0, 1, 2, 3]] * 3

    def test_padding_is_zero_and_absent_frames_are_masked(self, spec):
        source = open_source(spec, num_frames=4, frame_sampling="uniform")
        short = source.rows.tolist().index(4)  # this clip lacks its last frame
        batch = source.video_batch(np.array([short]))
        assert batch.frame_mask.tolist() == [[True, True, True, False]]
        assert (batch.features[~batch.region_mask] == 0).all()
        assert (batch.boxes_norm[~batch.region_mask] == 0).all()
        assert torch.isfinite(batch.features).all()

    def test_fewer_regions_are_the_most_confident_ones(self, spec):
        whole, first = (open_source(spec, num_frames=4, frame_sampling="uniform", max_regions=r) for r in (3, 1))
        places = np.arange(6)
        assert first.video_batch(places).features.shape == (6, 4, 1, 12)
        assert torch.equal(first.video_batch(places).features, whole.video_batch(places).features[:, :, :1])

    @pytest.mark.parametrize("num_frames", [1, 2, 4])
    def test_memory_and_disk_give_the_same_batches(self, spec, tiny_model, num_frames):
        batches = [
            training_data([spec], tiny_model, data={"num_frames": num_frames, "memory_budget_bytes": budget}).batch(3)
            for budget in (0, 1 << 30)
        ]
        assert same(*batches)

    def test_one_random_frame_differs_between_epochs_and_clips(self, spec, tiny_model):
        data = training_data([spec], tiny_model)
        source, shown = data.sources[0], set()
        stored = RegionStore(spec.regions).read_all()
        for step in range(data.plan.steps_per_epoch * 8):
            batch = data.batch(step)
            for clip_id, features in zip(batch.clip_ids, batch.videos.features):
                row = int(source.rows[source.clip_ids.index(clip_id)])
                frames = [f for f in range(4) if np.array_equal(stored.features[row, f, :2], features[0, :2])]
                shown.add((row, *frames))
        assert all(len(entry) == 2 for entry in shown)  # exactly one stored frame fits
        assert {frame for _, frame in shown} == {0, 1, 2, 3}
        assert len(shown) > 60  # 30 clips x 4 frames, most of them seen in 8 epochs


class TestTrainingData:
    def test_a_batch_is_a_function_of_the_step(self, spec, image_spec, tiny_model):
        one, two = (training_data([spec, image_spec], tiny_model) for _ in range(2))
        for step in (11, 0, 4):
            assert same(one.batch(step), two.batch(step))

    def test_reading_ahead_gives_the_same_batches_in_order(self, spec, tiny_model):
        for depth in (0, 3):
            data = training_data([spec], tiny_model, data={"prefetch_batches": depth})
            read = [batch for batch, waited in data.read_ahead(2, 7) if waited >= 0]
            assert len(read) == 5
            assert all(same(batch, data.batch(step)) for step, batch in enumerate(read, start=2))

    def test_a_reader_that_is_dropped_stops(self, spec, tiny_model):
        reader = training_data([spec], tiny_model).read_ahead(0, 1000)
        next(reader)
        reader.close()

    def test_corpora_alternate(self, spec, image_spec, tiny_model):
        data = training_data([spec, image_spec], tiny_model)
        assert [data.batch(step).source for step in range(6)] == ["tiny", "images"] * 3

    def test_captions_belong_to_their_clip_and_all_get_a_turn(self, spec, tiny_model):
        data = training_data([spec], tiny_model)
        manifest = Manifest.read(spec.manifest)
        captions = {clip.clip_id: clip.captions for clip in (manifest.clip(row) for row in range(len(manifest)))}
        turns = set()
        for step in range(data.plan.steps_per_epoch * 4):
            batch = data.batch(step)
            for clip_id, ids, mask in zip(batch.clip_ids, batch.texts.input_ids, batch.texts.word_mask):
                text = " ".join(data.tokenizer.tokens(ids[mask].tolist()))
                turns.add(captions[clip_id].index(text))
        assert turns == {0, 1, 2}

    def test_a_clip_that_leaves_changes_nothing_for_the_others(self, tmp_path, write_corpus, tiny_model):
        """Same row, same epoch, same draws: only the order is another."""
        data = [
            training_data([write_corpus(tmp_path / name, 30, failed=failed, captions=3)], tiny_model)
            for name, failed in (("all", ()), ("less", (9,)))
        ]
        rows = np.array([4, 8, 12])
        assert np.array_equal(data[0]._draws(2, 0, rows), data[1]._draws(2, 0, rows))

    def test_too_few_clips_name_the_corpus(self, spec, tmp_path, write_corpus, tiny_model):
        single = write_corpus(tmp_path, 4, name="single", failed=(0, 1))
        with pytest.raises(ValueError, match=r"corpus 1 has 1.*1 = 'single'"):
            training_data([spec, single], tiny_model)

    def test_clips_with_non_finite_features_are_named(self, spec, tiny_model):
        batch = training_data([spec], tiny_model).batch(0)
        assert batch.clips_with_non_finite_features() == []
        batch.videos.features[3, 0, 1, 0] = float("inf")
        batch.videos.features[4, 0, 2] = float("nan")  # a padded slot
        assert batch.clips_with_non_finite_features() == [batch.clip_ids[3]]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [("a dog", True), ("42", True), ("!", True), ("犬", True), ("", False), (" \t", False), ("\u200b\ufffd", False)],
)
def test_captions_without_a_word(caption, expected):
    assert has_word(caption) is expected
