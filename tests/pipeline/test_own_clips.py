"""The newcomer's path: three videos and a captions CSV to a searchable store, with the commands of the README."""

import shutil

import pytest
from pipeline.harness import TINY

from flows.config import ConfigError
from flows.own import own_config
from storage.artifact import Workspace
from storage.ledger import read_ledger


@pytest.fixture
def my_videos(copy_of_finished, tmp_path):
    """Three clips of one's own and their captions, one of them without."""
    media = sorted(copy_of_finished.glob("corpora/pretrain-*/media/*.mp4"))
    folder = tmp_path / "my_videos"
    folder.mkdir()
    for name, source in zip(("a.mp4", "b.mp4", "c.mp4"), media):
        shutil.copy(source, folder / name)
    (folder / "captions.csv").write_text(
        "file,caption\na.mp4,a red circle moves right\nb.mp4,a blue square falls\nc.mp4,\n"
    )
    return folder


def test_embed_and_search(my_videos, copy_of_finished, command_line):
    options = ("--using", TINY, "--workspace", copy_of_finished, "--json")
    outcome = command_line("embed", my_videos, "--captions", my_videos / "captions.csv", *options, "--no-orchestrator")
    assert outcome.code == 0, outcome.stderr
    assert outcome.built() == ["corpora-own", "sample-own", "extract-own", "embed-own"]
    assert outcome.events[-1] == {"event": "searchable", "name": "own", "clips": 3, "left_out": []}
    again = command_line("embed", my_videos, "--captions", my_videos / "captions.csv", *options)
    assert again.events[0]["event"] == "nothing-to-do"
    found = command_line("search", "a red circle", "--workspace", copy_of_finished, "--top", "3", "--json")
    assert found.code == 0, found.stderr
    assert {hit["media"] for hit in found.events} == {"a.mp4", "b.mp4", "c.mp4"}
    similarities = [hit["similarity"] for hit in found.events]
    assert similarities == sorted(similarities, reverse=True)


def test_a_folder_without_captions(my_videos, copy_of_finished, command_line):
    (my_videos / "broken.mp4").write_bytes(b"not a video")
    outcome = command_line(
        "embed",
        my_videos,
        "--name",
        "plain",
        "--using",
        TINY,
        "--workspace",
        copy_of_finished,
        "--json",
        "--no-orchestrator",
    )
    assert outcome.code == 0, outcome.stderr
    (left_out,) = outcome.events[-1]["left_out"]
    assert (left_out["clip_id"], left_out["reason"]) == ("broken.mp4", "unreadable")
    config = own_config(my_videos, None, name="plain", using=str(TINY), model=None, overrides=[])
    assert config.corpora["plain"].sampling.num_frames == config.corpora["downstream"].sampling.num_frames
    ledger = next(a.path for a in Workspace(copy_of_finished).artifacts("sample") if a.name == "plain")
    rows = read_ledger(ledger / "ledger" / "000000.parquet").to_pylist()
    assert [(row["clip_id"].startswith("broken"), row["reason"]) for row in rows if row["status"] != "ok"] == [
        (True, "unreadable")
    ]


def test_searching_what_is_not_there(copy_of_finished, command_line):
    missing = command_line("search", "a red circle", "--name", "nope", "--workspace", copy_of_finished)
    assert missing.code == 1
    assert "no searchable store 'nope'" in missing.stderr
    assert "library" in missing.stderr
    empty = command_line("search", "  ", "--name", "library", "--workspace", copy_of_finished)
    assert "the query is empty" in empty.stderr


def test_clips_that_cannot_be_found_later_are_named_on_the_terminal(my_videos, copy_of_finished, command_line):
    (my_videos / "captions.csv").write_text("file,caption\na.mp4,a red circle\ngone.mp4,not there\n")
    options = ("--captions", my_videos / "captions.csv", "--using", TINY, "--workspace", copy_of_finished)
    outcome = command_line("embed", my_videos, *options, "--no-orchestrator")
    assert outcome.code == 0, outcome.stderr
    assert "1 clips are searchable: regionvlp search" in outcome.stderr
    assert "left out gone.mp4 (missing): captions.csv:3: no file 'gone.mp4' below the media root" in outcome.stderr


def test_a_folder_without_a_usable_clip(copy_of_finished, command_line, tmp_path):
    (tmp_path / "notes").mkdir()
    options = ("--using", TINY, "--workspace", copy_of_finished, "--no-orchestrator")
    empty = command_line("embed", tmp_path / "notes", *options)
    assert empty.code == 1
    assert "corpus 'own' has no clip" in empty.stderr
    table = tmp_path / "notes" / "list.csv"
    table.write_text("file,caption\n/etc/passwd,x\n")
    outside = command_line("embed", table, *options)
    assert outside.code == 1
    assert "all 1 were left out, the first ('/etc/passwd')" in outside.stderr
    assert "leaves the media root" in outside.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captions": "nope.csv"}, "nope.csv: no such file"),
        ({"media": "a.mp4"}, "is one clip; give the folder"),
        ({"media": "list.csv", "captions": "list.csv"}, "the first argument must be the folder"),
        ({"name": "library"}, "searchable store of .* already"),
        ({"model": "finetune-nope"}, "no model step 'finetune-nope'"),
    ],
)
def test_what_embed_refuses(change, message, tmp_path):
    for name in ("a.mp4", "list.csv"):
        (tmp_path / name).write_bytes(b"file,caption\n")
    paths = {key: tmp_path / value for key, value in change.items() if key in ("media", "captions")}
    arguments = {"media": tmp_path, "captions": None, "name": "own", "model": None} | change | paths
    with pytest.raises(ConfigError, match=message):
        own_config(**arguments, using=str(TINY), overrides=[])
