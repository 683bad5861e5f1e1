"""Which clips make which training step: a pure function of (seed, epoch, step).

Nothing about the order is ever stored. A checkpoint keeps the position, and every batch after it is computed anew,
whatever was read ahead when the run was killed.

Several corpora alternate, one optimizer step each, as in the release: corpus 0, 1, 0, 1, ... An epoch ends with the
shortest corpus (the release zips its loaders); of a longer corpus every epoch sees another random part. An incomplete
last batch is dropped: a smaller one would have fewer negatives and weigh more per pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

ORDER, SAMPLE, EXAMPLES = range(3)  # streams of random numbers; never renumber, or old seeds give other orders


def draws(count: int, *key: int) -> np.ndarray:
    """(count,) uint64, uniform, a pure function of the key.

    Made of raw Philox output because NumPy promises to keep that stream; `Generator.permutation` and the like may
    change between releases.
    """
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(count)


class EpochPlan:
    """The steps of every epoch over one or several corpora.

    Args:
        num_rows: clips in the plan of each corpus.
        batch_size: pairs per step; a corpus with fewer clips gives one batch of all of them.
        seed: of the order.
        max_samples_per_epoch: most pairs per epoch over all corpora, at least one step of each; None: no bound.
    Raises:
        ValueError: no corpus, or one with fewer than two clips (a contrast needs a negative).
    """

    def __init__(
        self, num_rows: Sequence[int], *, batch_size: int, seed: int, max_samples_per_epoch: int | None = None
    ) -> None:
        short = [f"corpus {i} has {n}" for i, n in enumerate(num_rows) if n < 2]
        if short or not num_rows:
            found = ", ".join(short) or "there is no corpus"
            raise ValueError(f"{found}; training contrasts pairs and needs at least 2 usable clips in every corpus")
        self.num_rows = tuple(num_rows)
        self.seed = seed
        self.batch_sizes = tuple(min(batch_size, n) for n in num_rows)
        rounds = min(n // size for n, size in zip(self.num_rows, self.batch_sizes, strict=True))
        if max_samples_per_epoch is not None:
            rounds = min(rounds, max(max_samples_per_epoch // sum(self.batch_sizes), 1))
        self.steps_per_epoch = rounds * len(self.num_rows)
        self._permutation = lru_cache(maxsize=len(self.num_rows))(self._draw_permutation)

    def position(self, global_step: int) -> tuple[int, int]:
        """(epoch, step in the epoch) of the step after `global_step` finished ones."""
        return divmod(global_step, self.steps_per_epoch)

    def batch(self, epoch: int, step: int) -> tuple[int, np.ndarray]:
        """Corpus of a step, and which of its planned clips, as (B,) places in [0, num_rows[corpus])."""
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"step {step}: an epoch has steps 0 to {self.steps_per_epoch - 1}")
        turn, corpus = divmod(step, len(self.num_rows))
        size = self.batch_sizes[corpus]
        return corpus, self._permutation(epoch, corpus)[turn * size : (turn + 1) * size]

    def _draw_permutation(self, epoch: int, corpus: int) -> np.ndarray:
        return np.argsort(draws(self.num_rows[corpus], self.seed, epoch, ORDER, corpus), kind="stable")


def choose_frames(usable: np.ndarray, num_frames: int, random: np.ndarray | None) -> np.ndarray:
    """Pick frames of clips, one per segment of the stored frames.

    The F stored frames are cut into num_frames segments at floor(k F / num_frames). Of each segment one usable frame is
    taken: the middle one, or by `random`. A segment without a usable frame gives an empty slot, so that a slot always
    means the same part of the clip. num_frames = 1 is the paper's single random frame; num_frames = F is all frames.

    Args:
        usable: (B, F) bool, True where a frame has regions.
        num_frames: slots; at most F.
        random: (B, num_frames) uint64 draws, or None for the middle.
    Returns:
        (B, num_frames) int64 frame, -1 where the segment has none.
    Raises:
        ValueError: more frames asked for than stored.
    """
    num_clips, stored = usable.shape
    if num_frames > stored:
        raise ValueError(f"num_frames is {num_frames}, but the region store holds {stored} per clip: lower num_frames")
    edges = [k * stored // num_frames for k in range(num_frames + 1)]
    chosen = np.full((num_clips, num_frames), -1, dtype=np.int64)
    for slot, (start, stop) in enumerate(pairwise(edges)):
        segment = usable[:, start:stop]
        count = segment.sum(axis=1)
        safe = np.maximum(count, 1).astype(np.uint64)
        pick = (count - 1) // 2 if random is None else (random[:, slot] % safe).astype(np.int64)
        place = np.argmax(np.cumsum(segment, axis=1) > pick[:, None], axis=1)  # the pick-th usable frame
        chosen[:, slot] = np.where(count > 0, start + place, -1)
    return chosen
