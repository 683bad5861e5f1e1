"""The right frames, or an error: checked against numbers in the pixels and against full decoding of real clips."""

import av
import numpy as np
import pytest

from features.decoding import Window, read_frames
from features.media_errors import MediaError
from features.packet_index import all_frame_times, frames_by_counting
from features.sampling import uniform_midpoints
from tests.unit.features.barcode_videos import KINDS, frame_number

MAX_PIXELS = 10**8


def eight(n):
    return uniform_midpoints(n, 8)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("reader", ["auto", "pyav"])
def test_frame_numbers_are_exact_in_every_container(videos, name, reader):
    decoded = read_frames(videos(name, 100), eight, reader=reader)
    assert decoded.indices.tolist() == eight(100).tolist()
    assert [frame_number(frame) for frame in decoded.frames] == eight(100).tolist()
    np.testing.assert_allclose(decoded.seconds, eight(100) / 25, atol=0.006)  # GIF counts in 1/100 s, FLV and MKV in ms


@pytest.mark.parametrize("name", ["h264_mp4", "h264_mp4_b_frames", "mpeg4_mp4_b_frames"])
def test_frames_before_an_edit_list_do_not_count(videos, name):
    decoded = read_frames(videos(name, 100, cut=7), eight)
    assert decoded.num_source_frames == 93
    assert [frame_number(frame) for frame in decoded.frames] == (eight(93) + 7).tolist()
    assert decoded.reader.startswith("pyav")


def test_decord_serves_plain_files_and_pyav_the_rest(videos):
    readers = {name: read_frames(videos(name, 30), [0, 29]).reader for name in KINDS}
    assert {name for name, reader in readers.items() if reader == "decord"} == {
        "h264_mp4", "h264_mp4_b_frames", "h264_mkv", "vp9_webm",
    }  # fmt: skip


def test_real_clips_agree_with_full_decoding(test_data):
    """The clips that decode fully in a moment; `sample_shard` tests run over all of them."""
    clips = [path for path in (test_data / "data/real_clips").glob("*/*.*") if path.stat().st_size < 500_000]
    clips = [path for path in clips if path.name != "decord_corrupted.mp4"]  # damaged: tested by itself
    assert len(clips) > 10
    for path in clips:
        seconds = all_frame_times(path, MAX_PIXELS)
        expected = frames_by_counting(path, eight(len(seconds)), MAX_PIXELS)
        for reader in ("auto", "pyav"):
            decoded = read_frames(path, eight, reader=reader)
            assert decoded.num_source_frames == len(seconds), path.name
            assert len(decoded.frames) == len(expected) == min(8, len(seconds))
            for ours, theirs in zip(decoded.frames, expected):
                np.testing.assert_array_equal(ours, theirs, err_msg=path.name)


def test_rotation_is_applied(test_data):
    shapes = {
        degrees: read_frames(test_data / f"data/real_clips/odd/decord_video_{degrees}.mov", [0], reader=reader)
        .frames[0]
        .shape
        for degrees in (0, 90, 180, 270)
        for reader in ("auto", "pyav")
    }
    assert shapes == {0: (320, 568, 3), 90: (568, 320, 3), 180: (320, 568, 3), 270: (568, 320, 3)}


def test_window_picks_inside_and_keeps_the_numbers_of_the_file(videos):
    path = videos("h264_mp4", 100)
    decoded = read_frames(path, eight, window=Window(1.0, 2.0))
    assert decoded.num_source_frames == 25
    assert decoded.indices.tolist() == (25 + eight(25)).tolist()
    assert [frame_number(frame) for frame in decoded.frames] == decoded.indices.tolist()


def test_window_beyond_the_end_has_no_frames(videos):
    with pytest.raises(MediaError, match=r"no frame in \[9.0, None\) s; the last one is at 1\.160 s") as error:
        read_frames(videos("h264_mp4", 30), eight, window=Window(9.0, None))
    assert error.value.reason == "no_frames"


def test_short_video_gives_each_frame_once(videos):
    decoded = read_frames(videos("h264_mp4", 3), eight)
    assert [frame_number(frame) for frame in decoded.frames] == [0, 1, 2]


def test_frame_number_beyond_the_end_is_an_error(videos):
    with pytest.raises(IndexError, match="frame 30 asked for, the clip has 30"):
        read_frames(videos("h264_mp4", 30), [0, 30])


def test_truncated_file_is_reported_not_resampled(videos, tmp_path):
    """An mp4 with its index in front, cut in the middle: readers see half the frames and no error."""
    whole, front = videos("h264_mp4", 200), tmp_path / "front.mp4"
    with av.open(str(whole)) as source, av.open(str(front), "w", options={"movflags": "+faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert read_frames(front, eight).num_source_frames == 200
    content = front.read_bytes()
    front.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(MediaError, match=r"the file ends early: \d+ of 200 frames") as error:
        read_frames(front, eight)
    assert error.value.reason == "truncated"


def test_truncated_matroska_is_reported(videos):
    path = videos("h264_mkv", 200)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(MediaError, match="the file ends early") as error:
        read_frames(path, eight)
    assert error.value.reason == "truncated"


def test_mp4_without_its_index_is_unreadable(videos):
    path = videos("h264_mp4", 200)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(MediaError, match="not a readable video") as error:
        read_frames(path, eight)
    assert error.value.reason == "unreadable"


def test_audio_has_no_frames(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="no video stream; the file holds audio"):
        read_frames(path, eight)


@pytest.mark.parametrize("content", [b"", b"hello\n" * 100, bytes(range(256)) * 40])
def test_rubbish_is_unreadable(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError) as error:
        read_frames(path, eight)
    assert error.value.reason == "unreadable"


def test_oversized_frames_are_refused(videos):
    with pytest.raises(MediaError, match="128 x 32 px exceed max_pixels 1000"):
        read_frames(videos("h264_mp4", 3), eight, max_pixels=1000)
