"""Annotation formats to clips, with the real annotation files and with everything that goes wrong in them."""

import csv
import json
import os

import pytest
from pydantic import TypeAdapter

from features.corpora.build import build_corpus, corpus_identity, media_root
from features.corpora.clips import AnnotationError, DuplicateClipError
from features.corpora.config import (
    CC3MCorpusConfig,
    CorpusConfig,
    FolderCorpusConfig,
    MSRVTTCorpusConfig,
    MSRVTTFramesCorpusConfig,
    TableCorpusConfig,
    WebVidCorpusConfig,
)


def reasons(built):
    return {row.clip_id: str(row.reason) for row in built.ledger}


def media(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (1 + len(name)))


# ---- real annotation files


def test_webvid_validation_has_4998_rows(test_data, tmp_path):
    path = test_data / "data/annotations/webvid_validation_success_full.tsv"
    built = build_corpus(WebVidCorpusConfig(annotations={"val": path}, media_root=tmp_path), tmp_path)
    assert len(built.clips) + len(built.ledger) == 4998
    assert set(reasons(built).values()) == {"missing"}


def test_webvid_rows_keep_captions_with_newlines_on_one_line(test_data, tmp_path):
    path = test_data / "data/annotations/webvid_validation_success_full.tsv"
    media(tmp_path, "videos/027701_027750/1053841541.mp4", "videos/054101_054150/5641526.mp4")
    built = build_corpus(WebVidCorpusConfig(annotations={"val": path}, media_root=tmp_path), tmp_path)
    assert [clip.clip_id for clip in built.clips] == ["1053841541", "5641526"]
    first = built.clips[0]
    assert first.captions == ("Travel blogger shoot a story on top of mountains. young man holds camera in forest.",)
    assert (first.media, first.kind, first.split) == ("videos/027701_027750/1053841541.mp4", "video", "val")
    assert first.media_bytes == (tmp_path / first.media).stat().st_size


def test_cc3m_validation_has_12741_rows(test_data, tmp_path):
    path = test_data / "data/annotations/cc3m_validation_success_full.tsv"
    media(tmp_path, "0000/0_1595581236.jpg")
    config = CC3MCorpusConfig(annotations={"val": path}, media_root=tmp_path, pattern="{shard}/{key}.jpg")
    built = build_corpus(config, tmp_path)
    assert len(built.clips) + len(built.ledger) == 12741
    assert (built.clips[0].clip_id, built.clips[0].kind) == ("0_1595581236", "image")


def test_msrvtt_frames_folder(test_data, tmp_path):
    built = build_corpus(MSRVTTFramesCorpusConfig(root=test_data / "data/msrvtt_frames"), tmp_path)
    assert built.facts["clips_by_split"] == {"train": 800, "val": 100, "test": 100}
    assert not built.ledger
    one = MSRVTTFramesCorpusConfig(
        root=test_data / "data/msrvtt_frames", caption_sources=("jsfusion_test",), splits=("test",)
    )
    built = build_corpus(one, tmp_path)
    assert (len(built.clips), set(reasons(built).values())) == (28, {"empty_caption"})


def test_msrvtt_split_lists(test_data, tmp_path):
    lists = test_data / "data/annotations"
    annotation = tmp_path / "MSR_VTT.json"
    items = [{"image_id": "video0", "caption": "a"}, {"image_id": "video0", "caption": "b"}]
    annotation.write_text(json.dumps({"annotations": items}))
    media(tmp_path, "video0.mp4", "video9770.mp4")
    config = MSRVTTCorpusConfig(
        splits={"train": lists / "MSRVTT_train.9k.csv", "test": lists / "MSRVTT_JSFUSION_test.public.csv"},
        annotation=annotation,
        media_root=tmp_path,
    )
    built = build_corpus(config, tmp_path)
    assert len(built.clips) + len(built.ledger) == 9000 + 861
    assert [(clip.clip_id, clip.split, clip.captions) for clip in built.clips] == [
        ("video0", "train", ("a", "b")),
        ("video9770", "test", ("a person is connecting something to system",)),
    ]


def test_msrvtt_list_without_sentences_needs_the_annotation(test_data, tmp_path):
    path = test_data / "data/annotations/MSRVTT_train.9k.csv"
    with pytest.raises(AnnotationError, match="no column 'sentence'"):
        build_corpus(MSRVTTCorpusConfig(splits={"train": path}, media_root=tmp_path), tmp_path)


@pytest.mark.parametrize(("folder", "clips", "left_out"), [("real_clips", 22, 3), ("cc3m_mini", 50, 0)])
def test_real_tables(test_data, tmp_path, folder, clips, left_out):
    built = build_corpus(TableCorpusConfig(annotations=test_data / "data" / folder / "captions.csv"), tmp_path)
    assert (len(built.clips), len(built.ledger)) == (clips, left_out)


def test_folder_of_real_clips(test_data, tmp_path):
    built = build_corpus(FolderCorpusConfig(media_root=test_data / "data/real_clips"), tmp_path)
    assert len(built.clips) == 32
    assert built.clips == sorted(built.clips, key=lambda clip: clip.clip_id)


# ---- one's own tables


def table(tmp_path, rows, columns=("file", "caption"), name="own.csv"):
    path = tmp_path / name
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return TableCorpusConfig(annotations=path)


def test_several_rows_of_a_clip_are_several_captions(tmp_path):
    media(tmp_path, "a.mp4", "b.jpg")
    built = build_corpus(
        table(tmp_path, [("a.mp4", "one"), ("b.jpg", "two"), ("a.mp4", "three"), ("a.mp4", "one")]), tmp_path
    )
    assert [(c.clip_id, c.kind, c.captions, c.split) for c in built.clips] == [
        ("a.mp4", "video", ("one", "three"), "train"),
        ("b.jpg", "image", ("two",), "train"),
    ]


def test_windows_make_clips_of_one_video(tmp_path):
    media(tmp_path, "a.mp4")
    rows = [("a.mp4", "first", "0", "2.5", "train"), ("a.mp4", "second", "2.5", "", "val")]
    built = build_corpus(table(tmp_path, rows, ("path", "caption", "start", "end", "split")), tmp_path)
    assert [(c.clip_id, c.start_seconds, c.end_seconds, c.split) for c in built.clips] == [
        ("a.mp4#0-2.5", 0.0, 2.5, "train"),
        ("a.mp4#2.5-", 2.5, None, "val"),
    ]


def test_jsonl_with_lists_of_captions(tmp_path):
    media(tmp_path, "v/a.mp4")
    lines = [{"media": "v/a.mp4", "captions": ["one", "two"], "clip_id": 7, "split": "test"}]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    built = build_corpus(TableCorpusConfig(annotations=path), tmp_path)
    assert [(c.clip_id, c.captions, c.split) for c in built.clips] == [("7", ("one", "two"), "test")]


def test_bad_clips_go_to_the_ledger_with_a_reason(tmp_path):
    root = tmp_path / "root"
    media(root, "good.mp4", "mute.mp4")
    media(tmp_path, "outside.mp4", "beyond/inner.mp4")
    os.symlink(tmp_path / "outside.mp4", root / "link.mp4")
    os.symlink(tmp_path / "beyond", root / "linked")
    os.symlink(root / "good.mp4", root / "inside_link.mp4")
    rows = [
        ("good.mp4", "fine"),
        ("inside_link.mp4", "fine too"),
        ("gone.mp4", "x"),
        ("mute.mp4", "  "),
        ("../outside.mp4", "x"),
        ("a/../../outside.mp4", "x"),
        (str(tmp_path / "outside.mp4"), "x"),
        ("link.mp4", "x"),
        ("linked/inner.mp4", "x"),
        ("x" * 300 + ".mp4", "x"),
    ]
    config = table(tmp_path, rows).model_copy(update={"media_root": root})
    built = build_corpus(config, tmp_path)
    assert [clip.clip_id for clip in built.clips] == ["good.mp4", "inside_link.mp4"]
    assert [str(row.reason) for row in built.ledger] == ["missing", "empty_caption", *["outside_root"] * 5, "missing"]
    assert all(row.status == "excluded" and row.row == -1 and "own.csv:" in row.message for row in built.ledger)


def test_a_repeated_id_names_both_lines(tmp_path):
    media(tmp_path, "a.mp4", "b.mp4")
    config = table(tmp_path, [("a.mp4", "x", "1"), ("b.mp4", "y", "1")], ("file", "caption", "clip_id"))
    with pytest.raises(DuplicateClipError, match=r"'1' is at own\.csv:2 \(a\.mp4, .*own\.csv:3 \(b\.mp4"):
        build_corpus(config, tmp_path)


def test_one_clip_in_two_splits_is_refused(tmp_path):
    for name, split in (("a.csv", "train"), ("b.csv", "test")):
        (tmp_path / name).write_text(f"video_id,sentence\nvideo7,{split}\n")
    config = MSRVTTCorpusConfig(splits={"train": tmp_path / "a.csv", "test": tmp_path / "b.csv"}, media_root=tmp_path)
    with pytest.raises(DuplicateClipError, match=r"a\.csv:2 .*split train.*b\.csv:2 .*split test"):
        build_corpus(config, tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own.csv", "file,caption\na.mp4,x\nb.mp4\n", r"own\.csv:3: 1 fields, the header has 2"),
        ("own.csv", 'file,caption\na.mp4,"x\nb.mp4,y\n', r"own\.csv:2: .*quotes"),
        ("own.csv", "name,caption\na.mp4,x\n", r"own\.csv:2: no media path"),
        ("own.csv", "file,caption,start\na.mp4,x,soon\n", r"own\.csv:2: start must be seconds"),
        ("own.csv", "file,caption,start,end\na.mp4,x,3,2\n", r"own\.csv:2: the clip ends at 2"),
        ("own.csv", "file,file\na.mp4,x\n", r"own\.csv:1: header names \['file'\] more than once"),
        ("own.csv", 'file,captions\na.mp4,"[1"\n', r"own\.csv:2: captions looks like a JSON list"),
        ("own.jsonl", '{"file": "a.mp4"}\n{broken\n', r"own\.jsonl:2: not JSON"),
        ("own.jsonl", "[1]\n", r"own\.jsonl:1: expected a JSON object, found list"),
        ("own.jsonl", '{"file": "a.mp4", "caption": 3}\n', r"own\.jsonl:1: caption must be text"),
        ("own.jsonl", '{"file": "a.mp4", "end": true}\n', r"own\.jsonl:1: end must be seconds"),
    ],
)
def test_malformed_rows_name_file_and_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(AnnotationError, match=message):
        build_corpus(TableCorpusConfig(annotations=path), tmp_path)


def test_files_that_are_not_utf8_are_refused(tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(b"file,caption\na.mp4,caf\xe9\n")
    with pytest.raises(AnnotationError, match=r"own\.csv.*not UTF-8"):
        build_corpus(TableCorpusConfig(annotations=path), tmp_path)


# ---- the publishers' layouts


def test_webvid_csv(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text('videoid,contentUrl,duration,page_dir,name\r\n21,u,PT8S,0001_0050,"A dog,\r\nrunning"\r\n')
    media(tmp_path, "videos/0001_0050/21.mp4")
    built = build_corpus(WebVidCorpusConfig(annotations={"train": path}, media_root=tmp_path), tmp_path)
    assert [(c.clip_id, c.captions, c.split) for c in built.clips] == [("21", ("A dog, running",), "train")]


@pytest.mark.parametrize(
    ("config", "text", "message"),
    [
        (WebVidCorpusConfig, "a caption\tno_slash\n", r"split\.tsv:1: second column"),
        (WebVidCorpusConfig, "fine\ta/1\nthree\tcolumns\there\n", r"split\.tsv:2: 3 columns"),
        (WebVidCorpusConfig, '"two\nlines"\ta/1\nx\ta/\n', r"split\.tsv:3: the video id is empty"),
        (CC3MCorpusConfig, "a caption\tnot_a_number\n", r"split\.tsv:1: second column"),
    ],
)
def test_malformed_publisher_rows(tmp_path, config, text, message):
    path = tmp_path / "split.tsv"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=message):
        build_corpus(config(annotations={"train": path}, media_root=tmp_path), tmp_path)


def test_webvid_csv_without_its_columns(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("videoid,name\n1,x\n")
    with pytest.raises(AnnotationError, match=r"results\.csv:1: header has columns .*missing \['page_dir'\]"):
        build_corpus(WebVidCorpusConfig(annotations={"train": path}, media_root=tmp_path), tmp_path)


def test_folder_takes_captions_beside_the_clip_and_leaves_hidden_files(tmp_path):
    media(tmp_path, "b/two.MP4", "one.png", ".hidden.mp4", ".git/three.mp4", "notes.pdf")
    (tmp_path / "one.txt").write_text("first\n\nsecond\n")
    built = build_corpus(FolderCorpusConfig(media_root=tmp_path), tmp_path)
    assert [(c.clip_id, c.kind, c.captions) for c in built.clips] == [
        ("b/two.MP4", "video", ()),
        ("one.png", "image", ("first", "second")),
    ]
    strict = build_corpus(FolderCorpusConfig(media_root=tmp_path, require_captions=True), tmp_path)
    assert reasons(strict) == {"b/two.MP4": "empty_caption"}


# ---- identity and configs


def test_a_moved_corpus_keeps_its_identity_and_a_changed_one_does_not(tmp_path):
    identities = []
    for place in ("here", "there/deeper"):
        root = tmp_path / place
        media(root, "a.mp4")
        config = table(root, [("a.mp4", "x"), ("gone.mp4", "y")])
        identities.append(corpus_identity(config))
    assert identities[0] == identities[1]
    (root / "a.mp4").write_bytes(b"another length")
    assert corpus_identity(config) != identities[0]
    media(root, "a.mp4")
    assert corpus_identity(config) == identities[0]
    media(root, "gone.mp4")  # downloaded at last
    assert corpus_identity(config) != identities[0]
    (root / "gone.mp4").unlink()
    config.annotations.write_text(config.annotations.read_text().replace("x", "z"))
    assert corpus_identity(config) != identities[0]


def test_the_caption_beside_a_clip_is_identity(tmp_path):
    media(tmp_path, "one.png")
    config = FolderCorpusConfig(media_root=tmp_path)
    before = corpus_identity(config)
    (tmp_path / "one.txt").write_text("new")
    assert corpus_identity(config) != before


def test_missing_annotation_file_and_media_root_are_named(tmp_path):
    config = WebVidCorpusConfig(annotations={"train": tmp_path / "gone.tsv"}, media_root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'train' is not at .*gone\.tsv"):
        corpus_identity(config)
    config = table(tmp_path, [("a.mp4", "x")]).model_copy(update={"media_root": tmp_path / "nowhere"})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_corpus(config, tmp_path)


def test_configs_are_told_apart_by_kind(tmp_path):
    parse = TypeAdapter(CorpusConfig).validate_python
    config = parse({"kind": "folder", "media_root": str(tmp_path)})
    assert isinstance(config, FolderCorpusConfig)
    assert media_root(config, tmp_path / "x") == tmp_path
    with pytest.raises(ValueError, match="kind"):
        parse({"kind": "laserdisc"})
