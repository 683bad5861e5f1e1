"""Retrieval metrics with official ties against the released DemoVLP code (golden/demovlp/03_metrics.npz)."""

import numpy as np
import pytest

from vlp.metrics import retrieval_metrics

OUR_NAMES = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "R50": "R@50", "MedR": "MedR", "MeanR": "MeanR"}


@pytest.fixture(scope="module")
def golden(test_data):
    with np.load(test_data / "golden/demovlp/03_metrics.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def cases(golden):
    found = sorted(key.removesuffix("_sims") for key in golden if key.endswith("_sims"))
    assert found, "the golden file holds no case"
    return found


def query(golden, case):
    """Similarity and owners; captions of a video are contiguous rows, and masked captions are not asked."""
    scores = golden[f"{case}_sims"]
    owners = np.repeat(np.arange(scores.shape[1]), scores.shape[0] // scores.shape[1])
    mask = golden.get(f"{case}_query_masks")
    asked = np.ones(len(owners), dtype=bool) if mask is None else mask.reshape(-1).astype(bool)
    return scores[asked], owners[asked]


def test_every_case(golden):
    keys = [str(key) for key in golden["metric_keys"]]
    for case in cases(golden):
        scores, owners = query(golden, case)
        found = retrieval_metrics(scores, owners, ties="official")
        for direction in ("t2v", "v2t"):
            names = [OUR_NAMES.get(key, "geometric_mean") for key in keys]
            np.testing.assert_allclose(
                [found[direction][name] for name in names],
                golden[f"{case}_{direction}"],
                rtol=1e-9,  # counts and their means; only the cube root rounds
                err_msg=f"{case} {direction} {keys}",
            )


def test_policies_agree_where_nothing_ties(golden):
    compared = 0
    for case in cases(golden):
        scores, owners = query(golden, case)
        ties = [len(np.unique(line)) < len(line) for line in (*scores, *scores.T)]
        if not any(ties):
            assert retrieval_metrics(scores, owners) == retrieval_metrics(scores, owners, ties="official"), case
            compared += 1
    assert compared
