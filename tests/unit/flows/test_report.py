"""The report says what the artifacts say, escapes what users wrote, stands alone and stays small."""

import itertools
import json
import shutil
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flows import report, report_pictures, report_scores
from flows.build import build_step
from flows.config import PipelineConfig, parse_config
from flows.dag import Dag
from flows.graph import build_dag
from flows.progress import SilentProgress
from flows.report_dag import direct_needs, draw_dag
from storage.artifact import Workspace
from storage.ledger import LedgerRow, Reason, write_ledger
from vlp.metrics import retrieval_metrics
from vlp.pictures import word_color

EVIL = '<script>alert("1")</script> a red & blue square'
CAPTIONS = {"red": EVIL, "green": "a green square", "blue": "a blue square"}


@dataclass
class Finished:
    """A workspace in which every step but the report is done."""

    config: PipelineConfig
    dag: Dag
    place: Workspace

    def build(self) -> Path:
        """Make the report and return its folder."""
        return build_step(self.dag, "report", self.place, self.config.execution, SilentProgress()).artifact.path

    def other(self, **report_section) -> "Finished":
        """The same workspace under another report section."""
        config = self.config.model_copy(update={"report": self.config.report.model_copy(update=report_section)})
        return Finished(config, build_dag(config), self.place)


def commit(place: Workspace, dag: Dag, name: str, files: dict[str, bytes | str]) -> None:
    """Finish a step with these files."""
    with place.building(dag.steps[name].recipe) as build:
        for relative, content in files.items():
            path = build.directory / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        build.commit()


def write_media(folder: Path) -> None:
    """Three images with captions, and one whose file is missing."""
    for name in CAPTIONS:
        image = np.zeros((48, 64, 3), np.uint8)
        image[12:36, 16:48] = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}[name]
        Image.fromarray(image).save(folder / f"{name}.png")
    rows = [{"file": f"{name}.png", "clip_id": name, "caption": caption} for name, caption in CAPTIONS.items()]
    rows.append({"file": "gone.png", "clip_id": "gone", "caption": "a lost clip"})
    (folder / "clips.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def evaluation_files() -> dict[str, bytes | str]:
    """What an evaluation of the three images leaves, in the formats of vlp.tasks.retrieval."""
    clips = list(CAPTIONS)
    similarity = np.array([[0.9, 0.1, 0.2], [0.6, 0.5, 0.1], [0.1, 0.2, 0.3]])
    extra = {
        "num_clips": 3, "num_captions": 3, "ties": "mean", "use_local": True, "attention_temperature": 0.05,
        "excluded_clips": {"gone": "upstream_failed"},
    }  # fmt: skip
    rankings = [{"direction": way, "correct_ids": ["x"]} for way in ("t2v", "v2t") for _ in clips]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rankings), sink)
    return {
        "metrics.json": json.dumps({**retrieval_metrics(similarity), **extra}),
        "rankings.parquet": sink.getvalue().to_pybytes(),
        "examples.json": json.dumps([example(clips, similarity, query) for query in (0, 1)]),
    }


def example(clips: list[str], similarity: np.ndarray, query: int) -> dict:
    """An example query that shows its two best answers, with one word that found the square."""
    best = np.argsort(-similarity[query])[:2].tolist()
    caption = CAPTIONS[clips[query]]
    start = caption.index("square")
    region = {
        "slot": 0, "frame": 0, "box": [16.0, 12.0, 48.0, 36.0], "class_id": 0, "attribute_id": -1, "score": 0.9, "weight": 0.7,
        "cosine": 0.5, "whole_image": False,
    }  # fmt: skip
    return {
        "query_id": f"{clips[query]}#0",
        "caption": caption,
        "clip_id": clips[query],
        "rank": float(1 + (similarity[query] > similarity[query, query]).sum()),
        "top": [{"clip_id": clips[v], "similarity": similarity[query, v], "correct": v == query} for v in best],
        "frames": [{"slot": 0, "frame": 0, "seconds": 0.0, "width_px": 64, "height_px": 48}],
        "words": [
            {"word": "a", "start": 0, "end": 1, "regions": [{**region, "cosine": 0.9}]},
            {"word": "square", "start": start, "end": start + 6, "regions": [region]},
        ],
    }


def training_files() -> dict[str, str]:
    """What a training of 700 steps with one validation leaves."""
    rows = [{"step": i, "loss": 2 / i, "global": 1 / i, "local": 1 / i} for i in range(1, 701)]
    recall = {"R@1": 50.0}
    rows.append({"step": 700, "validated_epochs": 1, "val": {"t2v": recall, "v2t": recall}})
    summary = {
        "steps": 700, "epochs": 7, "num_parameters": 1234, "first_loss": 2.0, "loss": 0.003, "global": 0.002, "local": 0.001,
        "clips": {"squares": 3}, "best_val": {"epoch": 7, "t2v": recall, "v2t": recall},
    }  # fmt: skip
    return {"metrics.jsonl": "".join(json.dumps(row) + "\n" for row in rows), "summary.json": json.dumps(summary)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("report")
    write_media(folder)
    (folder / "weights.safetensors").write_bytes(b"any")
    tree = {
        "name": "squares",
        "corpora": {
            "squares": {"corpus": {"kind": "table", "annotations": str(folder / "clips.jsonl"), "split": "test"}}
        },
        "detector": {"weights": str(folder / "weights.safetensors")},
        "pretrain": {"corpora": ["squares"]},
        "evaluate": {
            "plain": {"corpus": "squares", "model": "pretrain"},
            "last": {"corpus": "squares", "model": "pretrain"},
        },
        "execution": {"workers": 1},
    }
    config = parse_config(tree, [], source="test")
    dag, place = build_dag(config), Workspace(folder / "workspace")
    for name in ("corpora-squares", "sample-squares"):
        build_step(dag, name, place, config.execution, SilentProgress())
    ledger = place.directory(dag.steps["extract-squares"].recipe) / "ledger" / "000000.parquet"
    ledger.parent.mkdir(parents=True)
    write_ledger(ledger, [LedgerRow("gone", 3, "extract", "failed", Reason.UPSTREAM_FAILED, "no frames", seconds=2.5)])
    commit(place, dag, "extract-squares", {"regions": b"any"})
    commit(place, dag, "pretrain", training_files())
    for name in ("evaluate-plain", "evaluate-last"):
        commit(place, dag, name, evaluation_files())
    return Finished(config, dag, place)


@pytest.fixture(scope="module")
def made(finished) -> Path:
    return finished.build()


@pytest.fixture(scope="module")
def page(made) -> str:
    return (made / "report.html").read_text(encoding="utf-8")


class Checker(HTMLParser):
    """Collects elements and checks that they nest."""

    VOID = frozenset(("meta", "img", "br"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_stands_alone(page):
    checker = Checker(page)
    assert checker.open == []
    assert "script" not in {tag for tag, _ in checker.elements}
    for tag, attributes in checker.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("data:", "#")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert len(page.encode()) < 3_000_000


def test_every_picture_has_words_and_every_header_a_scope(page):
    elements = Checker(page).elements
    images = [attributes for tag, attributes in elements if tag == "img"]
    # 2 curves; 2 queries with 2 answers, the right one among them; 1 frame each
    assert len(images) == 2 + 2 * 2 + 2
    assert all(image["alt"] for image in images)
    assert all("scope" in attributes for tag, attributes in elements if tag == "th")


def test_what_users_wrote_is_escaped(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt; a red &amp; blue " in page


def test_failures_are_told_by_step_reason_and_clip(page, finished, made):
    failures = json.loads((made / "summary.json").read_text())["failures"]
    assert {"step": "extract-squares", "status": "failed", "reason": "upstream_failed", "count": 1} in failures
    assert ("corpora-squares", "missing") in {(f["step"], f["reason"]) for f in failures}
    assert "no frames" in page
    assert '<span class="soft">Clips failed or left out</span><b>1</b>' in page  # in two stages, yet one clip
    assert "gone" in page


def test_summary_has_the_scores_and_does_not_depend_on_the_day(finished, made):
    text = (made / "summary.json").read_text()
    summary = json.loads(text)
    scores = summary["evaluations"]["last"]["t2v"]
    assert scores["metrics"]["R@1"] == pytest.approx(200 / 3)
    assert scores["chance"] == pytest.approx({"R@1": 100 / 3, "R@5": 100, "R@10": 100, "MedR": 2, "MeanR": 2})
    assert (scores["num_queries"], scores["num_candidates"]) == (3, 3)
    assert summary["trainings"]["pretrain"]["losses"] == {"total": 0.003, "global": 0.002, "local": 0.001}
    assert summary["fingerprints"]["pretrain"] == finished.dag.steps["pretrain"].recipe.fingerprint
    shutil.rmtree(made)
    assert (finished.build() / "summary.json").read_text() == text


def test_the_last_evaluation_is_pictured_and_all_are_listed(page):
    assert "Captions of evaluation <strong>last</strong>" in page
    assert "<strong>plain</strong>: region-word alignment at attention temperature 0.05" in page
    assert f'<span class="word" style="border-color:{word_color(0)}">square</span>' in page
    assert "Frame at 0.00 s with boxes: square → class 0" in page


def test_weights_from_a_file_are_named_by_their_digest(page, finished):
    digest = finished.place.find(finished.dag.steps["extract-squares"].recipe).inputs["weights"]
    assert f"came from a file ({digest})" in page
    assert "not the ResNet-101 Faster R-CNN of the paper" in page


def test_without_examples_the_page_says_why(finished):
    assert "report.num_examples is 0" in (finished.other(num_examples=0).build() / "report.html").read_text()


def test_an_evaluation_that_kept_no_examples_is_no_error(finished, tmp_path):
    place = Workspace(shutil.copytree(finished.place.root, tmp_path / "workspace"))
    shutil.rmtree(place.directory(finished.dag.steps["evaluate-last"].recipe))
    files = evaluation_files()
    del files["examples.json"]
    commit(place, finished.dag, "evaluate-last", files)
    shutil.rmtree(place.directory(finished.dag.steps["report"].recipe))
    page = (Finished(finished.config, finished.dag, place).build() / "report.html").read_text()
    assert "Evaluation last has kept no example queries" in page


def test_pictures_beyond_the_allowance_are_left_out_and_counted(finished, monkeypatch):
    monkeypatch.setattr(report, "MAX_PICTURE_BYTES", 0)
    folder = finished.other(num_examples=1).build()
    page = (folder / "report.html").read_text()
    assert "<img" not in page
    assert "pictures are left out" in page
    Checker(page)


@pytest.mark.parametrize(("num_candidates", "num_right"), [(4, [1]), (5, [2]), (6, [1, 3]), (5, [1, 1, 4]), (1, [1])])
def test_chance_is_the_mean_over_all_orders(num_candidates, num_right):
    ranks = []
    for right in num_right:
        orders = itertools.permutations(range(num_candidates))
        ranks.append([1 + min(order.index(answer) for answer in range(right)) for order in orders])
    ranks = np.array(ranks)
    chance = report_scores.chance_level(num_candidates, num_right)
    for k in (1, 5, 10):
        assert chance[f"R@{k}"] == pytest.approx(100 * np.mean(ranks <= k))
    assert chance["MeanR"] == pytest.approx(ranks.mean())
    assert chance["MedR"] == pytest.approx(np.median(ranks))


def test_chance_of_many_candidates_is_quick_and_right():
    chance = report_scores.chance_level(1000, [1] * 1000)
    assert chance == pytest.approx({"R@1": 0.1, "R@5": 0.5, "R@10": 1.0, "MedR": 500.5, "MeanR": 500.5})


@given(st.integers(1, 2000))
def test_a_thinned_curve_keeps_its_mean(num_rows):
    rows = [{"step": i, "loss": float(i % 7)} for i in range(num_rows)]
    thin = report_scores.thinned(rows, ["loss"])
    assert len(thin) <= report_scores.CURVE_POINTS
    size = -(-num_rows // report_scores.CURVE_POINTS)
    weights = [min(size, num_rows - size * i) for i in range(len(thin))]
    assert np.average([row["loss"] for row in thin], weights=weights) == pytest.approx(
        np.mean([r["loss"] for r in rows])
    )


def test_a_region_goes_to_the_word_most_like_it_and_names_the_others():
    near, far = ({"frame": 2, "box": [0, 0, x, 9], "weight": 0.2} for x in (5, 9))
    words = [
        {"regions": [{**near, "cosine": 0.3}, {**far, "cosine": 0.1, "weight": 0.1}]},
        {"regions": [{**near, "cosine": 0.8}]},
        {"regions": []},
    ]
    found = report_pictures.aligned_regions(words)
    assert list(found) == [2]
    assert [(one.region["box"], one.words, one.strength) for one in found[2]] == [
        ([0, 0, 9, 9], (0,), 0.5),
        ([0, 0, 5, 9], (1, 0), 1.0),
    ]


@given(st.lists(st.text("abc é", min_size=1), min_size=1, max_size=6), st.data())
def test_coloured_pieces_make_up_the_caption(texts, data):
    ends = list(itertools.accumulate(len(text) for text in texts))
    words = [{"start": end - len(text), "end": end} for end, text in zip(ends, texts)]
    shown = data.draw(st.sets(st.integers(0, len(words) - 1)))
    pieces = report_pictures.coloured_pieces("".join(texts), words, dict.fromkeys(shown, 3))
    assert "".join(piece["text"] for piece in pieces) == "".join(texts)
    assert [p["text"] for p in pieces if p["color"]] == [texts[number] for number in sorted(shown)]


@pytest.mark.parametrize(
    ("word", "names"), [("The", False), ("square", True), (",", False), ("3", True), ("Été", True)]
)
def test_function_words_and_punctuation_name_nothing(word, names):
    assert report_pictures.names_something(word) is names


def test_the_drawing_leaves_out_needs_that_follow_from_others(finished):
    steps = {name: step for name, step in finished.dag.steps.items() if name != "report"}
    assert direct_needs(steps, "evaluate-last") == ["pretrain"]
    assert direct_needs(steps, "pretrain") == ["extract-squares"]
    drawing = draw_dag(steps, dict.fromkeys(steps, 1.0))
    assert drawing.count('class="edge"') == 5
    Checker(drawing)


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.24, "4.2 s"), (187, "3 min 07 s"), (3599.9, "1 h 00 min"), (7512, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert report.duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (38_000, "38 kB"), (16_040_000, "16.0 MB"), (3e12, "3.0 TB")]
)
def test_sizes(num_bytes, text):
    assert report.size(num_bytes) == text


def test_values_that_differ_name_their_steps():
    assert report.distinct({"a": "1", "b": "1"}) == [{"text": "1", "steps": []}]
    assert report.distinct({"a": "1", "b": "2"}) == [{"text": "1", "steps": ["a"]}, {"text": "2", "steps": ["b"]}]
