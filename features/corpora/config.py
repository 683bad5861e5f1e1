"""What a corpus is made from: one frozen model per annotation format, told apart by `kind`.

Paths are placement: moving a corpus changes nothing. What the files hold enters through `build.corpus_identity`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

PLACEMENT = {"placement": True}
Split = Literal["train", "val", "test"]


class Config(BaseModel):
    """Base of all configs here: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DemoCorpusConfig(Config):
    """Made-up clips: moving, coloured, textured shapes, with captions and boxes. Nothing is downloaded."""

    kind: Literal["demo"] = "demo"
    num_train: int = Field(1200, ge=0, description="clips in split 'train'")
    num_val: int = Field(100, ge=0, description="clips in split 'val'")
    num_test: int = Field(100, ge=0, description="clips in split 'test', each with a caption true of it alone")
    seed: int = Field(0, ge=0, description="another seed gives other clips over the same vocabulary")
    size_px: int = Field(
        128, ge=96, le=1024, description="width and height of the clips, px, even; at 96 objects are 14 px or more"
    )
    num_frames: int = Field(16, ge=1, le=1000, description="frames per clip")
    fps: int = Field(8, ge=1, le=120, description="frames per second")
    group_size: int = Field(4, ge=1, le=32, description="clips in a group that share all described facts but one")
    workers: int = Field(2, ge=1, description="processes that draw and encode", json_schema_extra=PLACEMENT)

    @field_validator("size_px")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"size_px must be even (H.264 4:2:0), got {value}")
        return value


class WebVidCorpusConfig(Config):
    """WebVid: the publisher's CSV (videoid, page_dir, name) or the header-less TSV (caption, page_dir/videoid)."""

    kind: Literal["webvid"] = "webvid"
    annotations: dict[Split, Path] = Field(
        description="annotation file of each split, .csv or .tsv", json_schema_extra=PLACEMENT
    )
    media_root: Path = Field(description="folder that `pattern` is relative to", json_schema_extra=PLACEMENT)
    pattern: str = Field(
        "videos/{page_dir}/{videoid}.mp4", description="video path below media_root, from {page_dir} and {videoid}"
    )


class CC3MCorpusConfig(Config):
    """CC3M: header-less TSV (caption, index_hash); an image per row."""

    kind: Literal["cc3m"] = "cc3m"
    annotations: dict[Split, Path] = Field(description="TSV of each split", json_schema_extra=PLACEMENT)
    media_root: Path = Field(description="folder that holds the images", json_schema_extra=PLACEMENT)
    pattern: str = Field(
        "{key}.jpg",
        description="image path below media_root from {split}, {key} (index_hash), {index}, {hash} and "
        "{shard} (first four digits of the index padded to seven)",
    )


class MSRVTTFramesCorpusConfig(Config):
    """MSR-VTT as one folder: videos.jsonl (video_id, file, split) and captions.csv (video_id, source, caption)."""

    kind: Literal["msrvtt_frames"] = "msrvtt_frames"
    root: Path = Field(description="folder with videos.jsonl, captions.csv and the media", json_schema_extra=PLACEMENT)
    caption_sources: tuple[str, ...] = Field(
        ("mc_test_answer", "jsfusion_test"),
        min_length=1,
        description="caption sources to keep; others describe single frames or are translations",
    )
    splits: tuple[str, ...] = Field(("train", "val", "test"), min_length=1, description="values of 'split' to keep")


class MSRVTTCorpusConfig(Config):
    """MSR-VTT by its split lists: a CSV of ids (video_id), captions from the list itself or from MSR_VTT.json."""

    kind: Literal["msrvtt"] = "msrvtt"
    splits: dict[Split, Path] = Field(
        description="CSV per split, e.g. MSRVTT_train.9k.csv (video_id) or MSRVTT_JSFUSION_test.csv (with sentence)",
        json_schema_extra=PLACEMENT,
    )
    annotation: Path | None = Field(
        None,
        description="MSR_VTT.json ('annotations') or videodatainfo ('sentences'), where a list has no sentences",
        json_schema_extra=PLACEMENT,
    )
    media_root: Path = Field(description="folder that holds {video_id}{extension}", json_schema_extra=PLACEMENT)
    extension: str = Field(".mp4", pattern=r"^\.\w+$", description="file extension of the videos")


class FolderCorpusConfig(Config):
    """A folder of videos and images, searched recursively; clip.txt beside clip.mp4 holds its captions, one a line."""

    kind: Literal["folder"] = "folder"
    media_root: Path = Field(description="the folder", json_schema_extra=PLACEMENT)
    split: Split = Field("test", description="split given to every clip")
    require_captions: bool = Field(False, description="clips without a caption go to the ledger, not the manifest")


class TableCorpusConfig(Config):
    """CSV or JSONL of one's own: media|file|path, caption or captions, optional clip_id, split, start, end (seconds).

    Several rows of one clip are several captions.
    """

    kind: Literal["table"] = "table"
    annotations: Path = Field(description=".csv, .tsv (both with a header) or .jsonl", json_schema_extra=PLACEMENT)
    media_root: Path | None = Field(
        None, description="folder of the media; default: the table's folder", json_schema_extra=PLACEMENT
    )
    split: Split = Field("train", description="split of rows that name none")
    require_captions: bool = Field(True, description="clips without a caption go to the ledger, not the manifest")


CorpusConfig = Annotated[
    DemoCorpusConfig
    | WebVidCorpusConfig
    | CC3MCorpusConfig
    | MSRVTTFramesCorpusConfig
    | MSRVTTCorpusConfig
    | FolderCorpusConfig
    | TableCorpusConfig,
    Field(discriminator="kind"),
]
