"""Pictures of the report, as data URIs: what was found for example captions, and which regions their words are aligned with."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from detector.vocabulary import Vocabulary, read_vocabulary, visual_genome_vocabulary
from flows.config import EvaluateSection, PipelineConfig
from storage.artifact import Artifact
from storage.frame_store import FrameRow, FrameStore
from storage.manifest import Manifest
from vlp.pictures import Mark, draw_boxes, word_color

THUMBNAIL_PX = 200
FRAME_PX = (
    320  # side of a picture with boxes, as wide as it is shown; smaller frames are enlarged, or labels would hide them
)
FRAMES_PER_EXAMPLE = 3
# English words that name nothing in a frame; they are aligned with some region too, but a box for each would bury the rest.
FUNCTION_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "been", "being", "by", "did", "do", "does", "for", "from", "has",
    "have", "he", "her", "his", "in", "into", "is", "it", "its", "no", "not", "of", "off", "on", "onto", "or",
    "out", "over", "she", "that", "the", "their", "them", "then", "there", "they", "this", "to", "up", "was",
    "were", "while", "with",
))  # fmt: skip


class Allowance:
    """What the page may still hold of pictures; further ones are refused and counted.

    Args:
        max_bytes: length of all data URIs together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self.refused = 0

    def data_uri(self, image: bytes, mime: str) -> str | None:
        """The image as a data URI, or None if the page would grow too large."""
        uri = f"data:{mime};base64,{base64.b64encode(image).decode('ascii')}"
        if len(uri) > self._left:
            self.refused += 1
            return None
        self._left -= len(uri)
        return uri


class ClipPictures:
    """Frames and captions of the clips of one corpus."""

    def __init__(self, manifest: Artifact, frames: Artifact) -> None:
        self._manifest = Manifest.read(manifest.file("manifest.parquet"))
        self._row_of = {clip_id: row for row, clip_id in enumerate(self._manifest.clip_ids)}
        self._frames = FrameStore(frames.path)

    def caption(self, clip_id: str) -> str:
        """First caption of a clip; "" if it has none."""
        return next(iter(self._manifest.clip(self._row_of[clip_id]).captions), "")

    def frames(self, clip_id: str) -> FrameRow:
        """Stored frames of a clip."""
        return self._frames.read(self._row_of[clip_id])

    def thumbnail(self, clip_id: str) -> bytes:
        """JPEG of the clip's middle frame."""
        row = self.frames(clip_id)
        frame = row.jpegs[len(row.jpegs) // 2]
        return draw_boxes(frame, [], original_size_px=row.original_size_px, max_side_px=THUMBNAIL_PX)


def gather_examples(config: PipelineConfig, inputs: Mapping[str, Artifact], allowance: Allowance) -> dict[str, Any]:
    """Example retrievals and word-region pictures of the last evaluation of the configuration.

    Returns:
        evaluation (its name), retrievals, alignments, method (how words found regions), note (why something is missing, or "").
    """
    empty = {"evaluation": "", "retrievals": [], "alignments": [], "method": ""}
    if not config.evaluate or config.report.num_examples == 0:
        why = "report.num_examples is 0" if config.evaluate else "this configuration has no evaluation"
        return {**empty, "note": f"No examples are shown: {why}."}
    name, section = list(config.evaluate.items())[-1]
    evaluation = inputs[f"evaluate-{name}"]
    examples = _read_examples(evaluation)[: config.report.num_examples]
    if not examples:
        return {
            **empty,
            "evaluation": name,
            "note": f"Evaluation {name} has kept no example queries (retrieval.num_examples).",
        }
    clips = ClipPictures(inputs[f"corpora-{section.corpus}"], inputs[f"sample-{section.corpus}"])
    metrics = json.loads(evaluation.file("metrics.json").read_text(encoding="utf-8"))
    retrievals = [_retrieval(example, clips, metrics["num_clips"], allowance) for example in examples]
    vocabulary = _vocabulary(config, inputs)
    alignments = [
        drawn for example in examples if (drawn := _alignment(example, clips, vocabulary, allowance))["frames"]
    ]
    left_out = (
        f"{allowance.refused} pictures are left out to keep the page small enough to send." if allowance.refused else ""
    )
    return {
        "evaluation": name,
        "retrievals": retrievals,
        "alignments": alignments,
        "method": _method(metrics, section),
        "note": left_out,
    }


def _read_examples(evaluation: Artifact) -> list[dict[str, Any]]:
    if "examples.json" not in evaluation.outputs:
        return []
    return json.loads(evaluation.file("examples.json").read_text(encoding="utf-8"))


def _method(metrics: Mapping[str, Any], section: EvaluateSection) -> str:
    untrained = "" if metrics["use_local"] else " This model was trained and ranked without them, so expect little."
    return (
        f"For every word of a caption the model weighs the regions of the right clip (word to region, Eq. 10 of the paper, attention "
        f"temperature {metrics['attention_temperature']:g}). Shown are each word's {section.retrieval.regions_per_word} strongest regions, "
        "in the colour of the word; a region that several words choose goes to the word most like it (cosine). Function words such as "
        f"“the” are left out. Nothing taught the model these pairs; it saw whole captions only.{untrained}"
    )


def _retrieval(
    example: Mapping[str, Any], clips: ClipPictures, num_candidates: int, allowance: Allowance
) -> dict[str, Any]:
    answers = [{"rank": float(place), **answer} for place, answer in enumerate(example["top"], start=1)]
    if not any(answer["correct"] for answer in answers):
        answers.append({"rank": example["rank"], "clip_id": example["clip_id"], "similarity": None, "correct": True})
    return {
        "caption": example["caption"],
        "clip_id": example["clip_id"],
        "rank": example["rank"],
        "num_candidates": num_candidates,
        "answers": [
            {
                **answer,
                "caption": clips.caption(answer["clip_id"]),
                "image": allowance.data_uri(clips.thumbnail(answer["clip_id"]), "image/jpeg"),
            }
            for answer in answers
        ],
    }


def _alignment(
    example: Mapping[str, Any], clips: ClipPictures, vocabulary: Vocabulary, allowance: Allowance
) -> dict[str, Any]:
    """One caption with its words' colours, and the frames in which most of its regions lie."""
    words = [word for word in example["words"] if names_something(word["word"])]
    by_frame = aligned_regions(words)
    seconds = {frame["frame"]: frame["seconds"] for frame in example["frames"]}
    chosen = sorted(sorted(by_frame, key=lambda frame: (-len(by_frame[frame]), frame))[:FRAMES_PER_EXAMPLE])
    shown = sorted({aligned.words[0] for frame in chosen for aligned in by_frame[frame]})
    color = {number: place for place, number in enumerate(shown)}  # by place, so that few words repeat a colour
    stored = clips.frames(example["clip_id"])
    frames = []
    for frame in chosen:
        marks = [
            Mark(tuple(one.region["box"]), color[one.words[0]], words[one.words[0]]["word"], one.strength)
            for one in by_frame[frame]
        ]
        picture = draw_boxes(
            enlarged(stored.jpegs[frame]), marks, original_size_px=stored.original_size_px, max_side_px=FRAME_PX
        )
        image = allowance.data_uri(picture, "image/jpeg")
        if image:
            text = "; ".join(_pairing(one, words, vocabulary) for one in by_frame[frame])
            time = f"{seconds[frame]:.2f} s"
            frames.append({"image": image, "alt": f"Frame at {time} with boxes: {text}", "caption": f"{time}. {text}"})
    return {
        "caption": example["caption"],
        "clip_id": example["clip_id"],
        "pieces": coloured_pieces(example["caption"], words, color),
        "words": [{"text": words[number]["word"], "color": word_color(place)} for number, place in color.items()],
        "frames": frames,
    }


def _pairing(aligned: "AlignedRegion", words: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> str:
    """Such as "blue (also checkered) → blue heart"."""
    first, *others = dict.fromkeys(words[number]["word"] for number in aligned.words)  # a word may occur twice
    also = f" (also {', '.join(others)})" if others else ""
    return f"{first}{also} → {region_name(aligned.region, vocabulary)}"


def names_something(word: str) -> bool:
    """Whether a word may name something to see: not punctuation, not a function word."""
    return word.casefold() not in FUNCTION_WORDS and any(character.isalnum() for character in word)


@dataclass(frozen=True)
class AlignedRegion:
    """A region and the words that are aligned with it.

    Attributes:
        region: as in examples.json.
        words: their numbers, the one most like the region (cosine) first.
        strength: the region's weight over that of the first word's strongest region, in [0, 1].
    """

    region: Mapping[str, Any]
    words: tuple[int, ...]
    strength: float


def aligned_regions(words: Sequence[Mapping[str, Any]]) -> dict[int, list[AlignedRegion]]:
    """The regions that words (as in examples.json) are aligned with, by frame, in the order of their first word."""
    claims: dict[tuple, list[tuple[float, int, Mapping[str, Any]]]] = {}
    for number, word in enumerate(words):
        for region in word["regions"]:
            key = (region["frame"], *region["box"])
            claims.setdefault(key, []).append((-region["cosine"], number, region))
    by_frame: dict[int, list[AlignedRegion]] = {}
    for claim in claims.values():
        ranked = sorted(claim, key=lambda one: one[:2])
        _, first, region = ranked[0]
        strongest = max(other["weight"] for other in words[first]["regions"])
        aligned = AlignedRegion(region, tuple(number for _, number, _ in ranked), region["weight"] / strongest)
        by_frame.setdefault(region["frame"], []).append(aligned)
    return {frame: sorted(found, key=lambda one: (one.words[0], -one.strength)) for frame, found in by_frame.items()}


def coloured_pieces(caption: str, words: Sequence[Mapping[str, Any]], color: Mapping[int, int]) -> list[dict[str, str]]:
    """The caption cut into pieces that joined are the caption; a word with a colour (by its number) is one piece."""
    pieces, done = [], 0
    for number in sorted(color):
        word = words[number]
        pieces.append({"text": caption[done : word["start"]], "color": ""})
        pieces.append({"text": caption[word["start"] : word["end"]], "color": word_color(color[number])})
        done = word["end"]
    return [piece for piece in [*pieces, {"text": caption[done:], "color": ""}] if piece["text"]]


def enlarged(jpeg: bytes) -> bytes:
    """The frame with its longer side at FRAME_PX, if it is smaller; else as it is."""
    with Image.open(io.BytesIO(jpeg)) as image:
        scale = FRAME_PX / max(image.size)
        if scale <= 1:
            return jpeg
        large = image.convert("RGB").resize(
            [max(round(side * scale), 1) for side in image.size], Image.Resampling.BICUBIC
        )
    buffer = io.BytesIO()
    large.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def region_name(region: Mapping[str, Any], vocabulary: Vocabulary) -> str:
    """What the detector calls a region, such as "red circle" or "whole frame"; by number where it has no name."""
    if region["whole_image"]:
        return "whole frame"
    class_id, attribute_id = region["class_id"], region["attribute_id"]
    classes, attributes = vocabulary.classes, vocabulary.attributes
    name = classes[class_id] if 0 <= class_id < len(classes) else f"class {class_id}"
    return f"{attributes[attribute_id]} {name}" if 0 <= attribute_id < len(attributes) else name


def _vocabulary(config: PipelineConfig, inputs: Mapping[str, Artifact]) -> Vocabulary:
    """Names of the classes and attributes the detector knows; none where they are not known."""
    if config.detector.train:
        corpus = inputs[f"corpora-{config.detector.train.corpus}"]
        if "vocabulary.json" in corpus.outputs:
            return read_vocabulary(corpus.file("vocabulary.json"))
    if config.detector.model.preset == "vg-r101-c4":
        return visual_genome_vocabulary()
    return Vocabulary((), ())
