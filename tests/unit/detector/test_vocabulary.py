"""Names of the ids."""

import hashlib
import json
from pathlib import Path

import pytest

from detector.vocabulary import Vocabulary, read_vocabulary, visual_genome_vocabulary


def test_visual_genome_names() -> None:
    vocabulary = visual_genome_vocabulary()
    assert (len(vocabulary.classes), len(vocabulary.attributes)) == (1600, 400)
    assert vocabulary.classes[:3] == ("yolk", "goal", "bathroom")
    assert "microwave" in vocabulary.classes  # "microwave,microwave oven"
    assert not any("," in name for name in (*vocabulary.classes, *vocabulary.attributes))


def test_the_shipped_files_are_the_published_ones(test_data: Path) -> None:
    shipped = Path(__file__).resolve().parents[3] / "detector" / "vocab"
    for name in ("vg_objects_vocab.txt", "vg_attributes_vocab.txt"):
        digests = [
            hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for folder in (shipped, test_data / "data" / "annotations")
        ]
        assert digests[0] == digests[1]


def test_a_corpus_vocabulary_is_read(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps({"classes": ["circle", "star"], "attributes": ["red"]}))
    assert read_vocabulary(path) == Vocabulary(("circle", "star"), ("red",))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"classes": ["a"]}',
        '{"classes": ["a", "a"], "attributes": []}',
        '{"classes": [1], "attributes": []}',
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"vocabulary\.json"):
        read_vocabulary(path)
