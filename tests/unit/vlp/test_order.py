"""The order of training: complete, repeatable, alternating, and computed from the position alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.order import EpochPlan, choose_frames, draws

corpora = st.lists(st.integers(2, 60), min_size=1, max_size=3)


def epoch_batches(plan: EpochPlan, epoch: int) -> list[tuple[int, list[int]]]:
    return [(corpus, places.tolist()) for corpus, places in (plan.batch(epoch, s) for s in range(plan.steps_per_epoch))]


@given(corpora, st.integers(2, 16), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_repeats_no_clip_alternates_and_ends_with_the_shortest(num_rows, batch_size, seed, epoch):
    plan = EpochPlan(num_rows, batch_size=batch_size, seed=seed)
    batches = epoch_batches(plan, epoch)
    assert [corpus for corpus, _ in batches] == list(range(len(num_rows))) * (len(batches) // len(num_rows))
    for corpus, rows in enumerate(num_rows):
        seen = [place for c, places in batches if c == corpus for place in places]
        assert len(seen) == len(set(seen))
        assert set(seen) <= set(range(rows))
        assert {len(places) for c, places in batches if c == corpus} == {min(batch_size, rows)}
    rounds = [rows // min(batch_size, rows) for rows in num_rows]
    assert len(batches) == min(rounds) * len(num_rows)


@given(corpora, st.integers(2, 16), st.integers(0, 3), st.integers(0, 200))
def test_a_position_is_all_that_is_needed(num_rows, batch_size, seed, global_step):
    uninterrupted = EpochPlan(num_rows, batch_size=batch_size, seed=seed)
    epoch, step = uninterrupted.position(global_step)
    for earlier in range(step):
        uninterrupted.batch(epoch, earlier)
    resumed = EpochPlan(num_rows, batch_size=batch_size, seed=seed)
    assert resumed.position(global_step) == (epoch, step)
    expected, found = uninterrupted.batch(epoch, step), resumed.batch(epoch, step)
    assert expected[0] == found[0]
    assert np.array_equal(expected[1], found[1])


def test_epochs_and_seeds_differ():
    plan = EpochPlan([64], batch_size=64, seed=0)
    orders = [tuple(plan.batch(epoch, 0)[1]) for epoch in range(4)]
    orders.append(tuple(EpochPlan([64], batch_size=64, seed=1).batch(0, 0)[1]))
    assert len(set(orders)) == 5


def test_the_stream_of_random_numbers_is_fixed():
    """Another stream would silently reorder every run; a change here needs a new code_version of training."""
    assert draws(3, 7, 1, 0).tolist() == [15726550606777476398, 7444883432361683333, 14092825244082508904]


def test_a_bound_on_samples_shortens_the_epoch_but_keeps_one_round():
    assert EpochPlan([100, 100], batch_size=10, seed=0, max_samples_per_epoch=59).steps_per_epoch == 4
    assert EpochPlan([100, 100], batch_size=10, seed=0, max_samples_per_epoch=3).steps_per_epoch == 2


@pytest.mark.parametrize(("num_rows", "message"), [([], "no corpus"), ([5, 1], "corpus 1 has 1")])
def test_too_few_clips_are_refused(num_rows, message):
    with pytest.raises(ValueError, match=message):
        EpochPlan(num_rows, batch_size=4, seed=0)


def test_frames_by_hand():
    usable = np.array([[1, 1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1, 0, 1]], dtype=bool)
    assert choose_frames(usable, 2, None).tolist() == [[1, 5], [0, 6], [-1, 5]]
    assert choose_frames(usable, 1, None).tolist() == [[3], [6], [5]]
    assert choose_frames(usable, 8, None)[2].tolist() == [-1, -1, -1, -1, -1, 5, -1, 7]


@given(st.integers(1, 8), st.data())
def test_chosen_frames_are_usable_and_of_their_segment(stored, data):
    num_frames = data.draw(st.integers(1, stored))
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=stored, max_size=stored)))[None]
    random = draws(num_frames, data.draw(st.integers(0, 50)))[None]
    for chosen in (choose_frames(usable, num_frames, random), choose_frames(usable, num_frames, None)):
        for slot, frame in enumerate(chosen[0]):
            segment = range(slot * stored // num_frames, (slot + 1) * stored // num_frames)
            assert (frame in segment and usable[0, frame]) if frame >= 0 else not usable[0, segment].any()


def test_a_single_random_frame_can_be_any_frame():
    """The release never draws the last one."""
    chosen = choose_frames(np.ones((400, 8), dtype=bool), 1, draws(400, 3)[:, None])
    assert np.bincount(chosen[:, 0], minlength=8).min() > 20  # 50 expected


def test_more_frames_than_stored_are_refused():
    with pytest.raises(ValueError, match="holds 4 per clip"):
        choose_frames(np.ones((1, 4), dtype=bool), 8, None)
