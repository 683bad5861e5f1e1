"""A shard of clips, good and bad: every clip ends as frames or as a ledger row, and a bad one costs no other."""

import multiprocessing
import os

import numpy as np
import pytest
from PIL import Image

from features.clip_frames import ClipTask
from features.decoding_pool import DecodingPool
from features.images import decode_jpeg
from features.sampling import SamplingConfig
from storage.errors import FailedRowError
from tests.unit.features.barcode_videos import frame_number
from tests.unit.features.faulty_decoders import dies_once, dies_with_decord, faulty
from tests.unit.features.stores import manifest_of, sample

CONFIG = SamplingConfig(num_frames=4)


def fates(ledger):
    return {row.clip_id: row.status if row.reason is None else str(row.reason) for row in ledger}


def frames_digest(folder):
    return [path.read_bytes() for path in sorted(folder.rglob("*.parquet")) if "ledger" not in path.parts]


def test_every_real_file_gives_its_frames_or_a_reason(test_data, tmp_path):
    root = test_data / "data/real_clips"
    names = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*.*"))
    manifest = manifest_of(tmp_path, {name: name for name in names})
    store, ledger = sample(tmp_path / "frames", manifest, root, SamplingConfig(), workers=2)
    assert len(ledger) == len(names) == 32
    assert {name: fate for name, fate in fates(ledger).items() if fate != "ok"} == {
        "odd/decord_corrupted.mp4": "unreadable"
    }
    counts = {}
    for row, entry in enumerate(ledger):
        if entry.status == "ok":
            clip = store.read(row)
            counts[clip.clip_id] = len(clip.jpegs)
            assert len(clip.jpegs) == min(8, clip.num_source_frames)
            assert clip.reader in ("decord", "pyav", "pyav-full")
            width, height = clip.original_size_px
            assert decode_jpeg(clip.jpegs[0]).shape == (height, width, 3)
        else:
            with pytest.raises(FailedRowError, match="unreadable"):
                store.read(row)
    few = {name for name, count in counts.items() if count < 8}
    assert {name.split("/")[-1][:12] for name in few} == {
        "decord_unord",
        "decord_video",
        "v2d_00000001",
        "v2d_00000035",
    }


def test_bad_files_become_ledger_rows(videos, tmp_path):
    root = tmp_path
    videos("h264_mp4", 20).rename(root / "good.mp4")
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("this is not a video\n" * 50)
    (root / "cut.mp4").write_bytes((root / "good.mp4").read_bytes()[:1500])
    (root / "text.jpg").write_text("nor is this an image")
    os.symlink("/etc/hostname", root / "link.mp4")
    names = ["empty.mp4", "text.mp4", "good.mp4", "cut.mp4", "text.jpg", "gone.mp4", "link.mp4"]
    store, ledger = sample(tmp_path / "frames", manifest_of(tmp_path, {name: name for name in names}), root, CONFIG)
    assert fates(ledger) == {
        "empty.mp4": "unreadable",
        "text.mp4": "unreadable",
        "good.mp4": "ok",
        "cut.mp4": "unreadable",
        "text.jpg": "unreadable",
        "gone.mp4": "missing",
        "link.mp4": "outside_root",
    }
    assert [row.row for row in ledger] == list(range(7))
    assert [frame_number(decode_jpeg(jpeg)) for jpeg in store.read(2).jpegs] == [2, 7, 12, 17]


def test_hanging_and_dying_processes_cost_one_clip_each(videos, tmp_path):
    video = videos("h264_mp4", 20)
    keys = ["a", "hang-1", "b", "segv-1", "c", "kill-1", "d", "e"]
    manifest = manifest_of(tmp_path, dict.fromkeys(keys, video.name))
    config = CONFIG.model_copy(update={"timeout_seconds": 3.0})
    store, ledger = sample(tmp_path / "frames", manifest, tmp_path, config, workers=2, decode=faulty)
    assert fates(ledger) == {
        **dict.fromkeys("abcde", "ok"),
        "hang-1": "timeout",
        "segv-1": "crashed",
        "kill-1": "crashed",
    }
    by_id = {row.clip_id: row for row in ledger}
    assert by_id["hang-1"].attempts == 1
    assert by_id["segv-1"].attempts == 3
    assert "SIGSEGV" in by_id["segv-1"].message
    assert "SIGKILL" in by_id["kill-1"].message
    assert store.read(7).jpegs == store.read(0).jpegs


def test_a_process_killed_from_outside_changes_no_byte(videos, tmp_path):
    video = videos("h264_mp4", 20)
    manifest = manifest_of(tmp_path, {"a": video.name, "b": video.name})
    sample(tmp_path / "calm", manifest, tmp_path, CONFIG)
    _, ledger = sample(tmp_path / "stormy", manifest, tmp_path, CONFIG, decode=dies_once)
    assert [(row.status, row.attempts) for row in ledger] == [("ok", 2), ("ok", 2)]
    assert frames_digest(tmp_path / "stormy") == frames_digest(tmp_path / "calm")


def test_a_clip_that_crashes_decord_is_read_by_pyav(videos, tmp_path):
    video = videos("h264_mp4", 20)
    manifest = manifest_of(tmp_path, {"a": video.name})
    store, ledger = sample(tmp_path / "frames", manifest, tmp_path, CONFIG, decode=dies_with_decord)
    assert (ledger[0].status, ledger[0].attempts, store.read(0).reader) == ("ok", 3, "pyav")


@pytest.mark.parametrize("mode", ["uniform", "random"])
def test_bytes_do_not_depend_on_workers_or_runs(videos, tmp_path, mode):
    video = videos("h264_mp4_b_frames", 60)
    manifest = manifest_of(tmp_path, {f"clip{i}": video.name for i in range(10)})
    config = SamplingConfig(num_frames=4, mode=mode, seed=5)
    stores = {}
    for name, workers in (("one", 1), ("two", 2)):
        stores[name], _ = sample(tmp_path / name, manifest, tmp_path, config, workers=workers, rows_per_shard=4)
    assert frames_digest(tmp_path / "one") == frames_digest(tmp_path / "two")
    picks = {tuple(row.frame_indices) for row in stores["one"].rows()}
    assert len(picks) == (1 if mode == "uniform" else len(picks))
    if mode == "random":
        assert len(picks) > 1
        jpegs = zip(stores["one"].read(3).frame_indices, stores["one"].read(3).jpegs)
        assert all(frame_number(decode_jpeg(jpeg)) == index for index, jpeg in jpegs)


def test_images_are_clips_of_one_frame_and_large_frames_are_scaled(tmp_path):
    pixels = np.zeros((60, 200, 3), np.uint8)
    pixels[:, 100:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    manifest = manifest_of(tmp_path, {"a": "a.png"})
    config = SamplingConfig(num_frames=8, max_side_px=100)
    store, _ = sample(tmp_path / "frames", manifest, tmp_path, config)
    clip = store.read(0)
    assert (clip.frame_indices, clip.frame_seconds, clip.num_source_frames, clip.reader) == ([0], [0.0], 1, "pillow")
    assert (clip.original_size_px, clip.size_px) == ((200, 60), (100, 30))


def test_windows_of_one_video_are_clips_of_their_own(videos, tmp_path):
    video = videos("h264_mp4", 100)
    manifest = manifest_of(tmp_path, {"a": video.name}, start_seconds=2.0, end_seconds=3.0)
    store, _ = sample(tmp_path / "frames", manifest, tmp_path, CONFIG)
    assert store.read(0).frame_indices == [52, 58, 64, 71]
    manifest = manifest_of(tmp_path, {"a": video.name}, start_seconds=20.0)
    _, ledger = sample(tmp_path / "late", manifest, tmp_path, CONFIG)
    assert fates(ledger) == {"a": "no_frames"}


def test_idle_processes_killed_from_outside_are_replaced(videos):
    task = ClipTask("a", videos("h264_mp4", 20), "video", None, None, CONFIG)
    with DecodingPool(1) as pool:
        first = list(pool.run([task]))
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        assert [outcome.result for outcome in pool.run([task, task])] == [first[0].result] * 2


def test_pool_needs_a_worker():
    with pytest.raises(ValueError, match="0 workers"):
        DecodingPool(0)
