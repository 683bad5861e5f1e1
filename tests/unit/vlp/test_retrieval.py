"""An evaluation's files agree with each other and with a slow recount; clips can be found again by text."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from storage.region_store import RegionStore
from vlp.alignment import alignment_weights
from vlp.config import TokenizerConfig
from vlp.data import ClipSource
from vlp.encoding import encode_captions, encode_clips
from vlp.models.dual_encoder import DualEncoder
from vlp.models.tokenizer import CaptionTokenizer, train_tokenizer
from vlp.tasks.examples import word_regions, words_of
from vlp.tasks.retrieval import embed_corpus, evaluate_retrieval, rank_source, search
from vlp.train_config import RetrievalConfig
from vlp.training import TrainSpec, train

CONFIG = RetrievalConfig(
    data={"num_frames": 4, "frame_sampling": "uniform"}, num_examples=5, num_threads=1, tile_videos=5, tile_texts=7
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_corpus):
    """60 clips, the last 12 for testing, of those one without regions and one without captions."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), 60, failed=(50,), speechless=(55,), captions=2)


@pytest.fixture(scope="module")
def model(corpus, tiny_model, tmp_path_factory):
    """A folder with a model trained for a moment."""
    config = {"batch_size": 16, "epochs": 15, "num_threads": 1, "optimizer": {"lr": 3e-3, "clip_grad_norm": 1.0}}
    output = tmp_path_factory.mktemp("trained")
    spec = TrainSpec(model=tiny_model, train=config, sources=(corpus,), output=output, device="cpu")
    assert train(spec)
    return output / "model"


@pytest.fixture(scope="module")
def evaluated(model, corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated")
    returned = evaluate_retrieval(model, corpus.manifest, corpus.regions, split="test", config=CONFIG, output=output)
    return output, returned


def read_metrics(output):
    return json.loads((output / "metrics.json").read_text())


def test_excluded_clips_are_counted_and_named(evaluated):
    output, returned = evaluated
    metrics = read_metrics(output)
    assert returned == metrics
    assert (metrics["num_clips"], metrics["num_captions"], metrics["num_excluded"]) == (10, 20, 2)
    assert metrics["excluded"] == {"empty_caption": 1, "unreadable": 1}
    assert metrics["excluded_clips"] == {"tiny-050": "unreadable", "tiny-055": "empty_caption"}
    assert (metrics["t2v"]["num_queries"], metrics["v2t"]["num_queries"]) == (20, 10)


def test_rankings_agree_with_the_metrics(evaluated):
    output, metrics = evaluated
    rankings = pq.read_table(output / "rankings.parquet").to_pylist()
    for direction in ("t2v", "v2t"):
        rows = [row for row in rankings if row["direction"] == direction]
        ranks = np.array([row["rank"] for row in rows])
        assert len(rows) == metrics[direction]["num_queries"]
        assert metrics[direction]["R@1"] == pytest.approx(100 * np.mean(ranks <= 1))
        assert metrics[direction]["MeanR"] == pytest.approx(np.mean(ranks))
        for row in rows:
            assert row["top_scores"] == sorted(row["top_scores"], reverse=True)
            if row["rank"] <= 10:
                assert set(row["correct_ids"]) & set(row["top_ids"])


def test_a_text_query_s_right_answer_is_its_own_clip(evaluated):
    output, _ = evaluated
    for row in pq.read_table(output / "rankings.parquet").to_pylist():
        owners = {identifier.partition("#")[0] for identifier in row["correct_ids"]}
        assert owners == {row["query_id"].partition("#")[0]}


def test_the_model_beats_chance(evaluated):
    _, metrics = evaluated
    assert metrics["t2v"]["R@1"] >= 40  # ten clips; chance is 10 %


def test_examples_show_regions_that_the_store_holds(evaluated, corpus):
    output, _ = evaluated
    examples = json.loads((output / "examples.json").read_text())
    assert len(examples) == 5
    store = RegionStore(corpus.regions)
    for example in examples:
        row = int(example["clip_id"].removeprefix("tiny-"))
        stored = store.read([row])
        assert [word["word"] for word in example["words"]] == example["caption"].split()
        assert [top["correct"] for top in example["top"]].count(True) <= 1
        for word in example["words"]:
            assert example["caption"][word["start"] : word["end"]] == word["word"]
            weights = [region["weight"] for region in word["regions"]]
            assert weights == sorted(weights, reverse=True)
            assert 0 < sum(weights) <= 1 + 1e-6
            for region in word["regions"]:
                boxes = stored.boxes[0, region["frame"]]
                assert any(np.allclose(box, region["box"], atol=0.01) for box in boxes)
        assert {frame["width_px"] for frame in example["frames"]} == {64}


def test_words_point_at_what_they_name(evaluated):
    """Attributes of the tiny corpus are colours, on the first region only: a colour word must look there."""
    output, _ = evaluated
    first = [
        word["regions"][0]["attribute_id"] >= 0
        for example in json.loads((output / "examples.json").read_text())
        for word in example["words"]
        if word["word"] in ("red", "green", "blue", "white", "black", "pink")
    ]
    assert np.mean(first) >= 0.6


def test_weights_of_an_example_are_shares_of_equation_10(model, corpus):
    encoder = DualEncoder.from_pretrained(model, num_frames=4)
    source = ClipSource.open(corpus.model_copy(update={"split": "test"}), CONFIG.data, with_captions=True)
    ranking = rank_source(encoder, source, CONFIG)
    query, frames = 1, source.choose_frames(np.array([0]))[0]
    assert ranking.caption_ids[query] == f"{source.clip_ids[0]}#1"
    _, attention = alignment_weights(
        ranking.videos.local[0],
        ranking.texts.local[query],
        region_mask=ranking.videos.mask[0],
        word_mask=ranking.texts.mask[query],
    )
    stored = source.store.read([int(source.rows[0])])
    words = word_regions(encoder, source, ranking, query, frames, stored, regions_per_word=2)
    assert [word["word"] for word in words] == ranking.captions[query].split()
    for word, weights in zip(words, attention):  # one piece per word in this vocabulary
        strongest = weights.sort(descending=True)
        assert [region["weight"] for region in word["regions"]] == pytest.approx(
            (strongest.values[:2] / weights.sum()).tolist()
        )
        slot, region = divmod(int(strongest.indices[0]), source.max_regions)
        np.testing.assert_allclose(word["regions"][0]["box"], stored.boxes[0, frames[slot], region], atol=0.01)


def test_an_evaluation_repeats_itself_byte_by_byte(evaluated, model, corpus, tmp_path):
    output, _ = evaluated
    config = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"memory_budget_bytes": 0})})
    evaluate_retrieval(model, corpus.manifest, corpus.regions, split="test", config=config, output=tmp_path)
    names = sorted(path.relative_to(output) for path in output.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [str(n) for n in names if (output / n).read_bytes() != (tmp_path / n).read_bytes()] == []


def test_one_caption_per_clip_can_be_asked_for(model, corpus, tmp_path):
    config = CONFIG.model_copy(update={"captions_per_clip": "first", "num_examples": 0})
    metrics = evaluate_retrieval(model, corpus.manifest, corpus.regions, split="test", config=config, output=tmp_path)
    assert metrics["num_captions"] == metrics["num_clips"] == 10
    assert json.loads((tmp_path / "examples.json").read_text()) == []


def test_search_finds_what_evaluation_ranked(evaluated):
    output, _ = evaluated
    example = json.loads((output / "examples.json").read_text())[0]
    hits = search(output, example["caption"], top_k=5)
    assert [hit["clip_id"] for hit in hits] == [top["clip_id"] for top in example["top"]]
    assert [hit["similarity"] for hit in hits] == pytest.approx([t["similarity"] for t in example["top"]], abs=1e-5)
    assert hits[0]["media"] == f"{hits[0]['clip_id']}.mp4"


def test_a_corpus_without_captions_can_be_embedded_and_searched(model, tmp_path, write_corpus):
    own = write_corpus(tmp_path, 30, name="own", speechless=range(30), failed=(1,), seed=3)
    facts = embed_corpus(model, own.manifest, own.regions, output=tmp_path / "index")
    assert facts == {"num_clips": 29, "num_excluded": 1}
    assert load_file(tmp_path / "index" / "embeddings.safetensors")["global_"].shape == (29, 16)
    hits = search(tmp_path / "index", "a red circle", top_k=100)
    assert len(hits) == 29
    assert {hit["source"] for hit in hits} == {"own"}


def test_an_index_outlives_its_model(evaluated, tmp_path):
    """The model travels with the embeddings; nothing points back to where it was trained."""
    output, _ = evaluated
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in output.iterdir():
        (moved / path.name).symlink_to(path)
    assert search(moved, "blue star", top_k=1)


@pytest.mark.parametrize("query", ["", "  "])
def test_an_empty_query_is_refused(evaluated, query):
    with pytest.raises(ValueError, match="no word"):
        search(evaluated[0], query)


def test_a_folder_without_embeddings_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"embeddings\.safetensors"):
        search(tmp_path, "a dog")


def test_batches_of_any_size_encode_alike(model, corpus):
    encoder = DualEncoder.from_pretrained(model, num_frames=4).train()
    source = ClipSource.open(corpus, CONFIG.data, with_captions=True)
    small, large = (
        encode_clips(encoder, source, CONFIG.model_copy(update={"encode_batch_size": size})) for size in (3, 100)
    )
    torch.testing.assert_close(small.global_, large.global_, atol=1e-5, rtol=1e-4)  # dropout off, whatever the mode
    assert encoder.training
    captions = ["a red circle", "star", "there is a pink heart here"]
    small, large = (encode_captions(encoder, captions, batch_size=size) for size in (1, 3))
    torch.testing.assert_close(small.global_, large.global_, atol=1e-5, rtol=1e-4)
    assert small.mask.tolist() == large.mask.tolist()


def test_pieces_of_a_word_stay_together():
    learned = train_tokenizer(["sunflower sun", "flower sunlight"], TokenizerConfig(vocabulary_size=34, min_count=1))
    (first, start, end, pieces), *rest = words_of(CaptionTokenizer(learned, 30), "Sunflower, sun")
    assert (first, start, end) == ("Sunflower", 0, 9)
    assert pieces == list(range(len(pieces)))
    assert len(pieces) > 1
    assert [word for word, *_ in rest] == [",", "sun"]
