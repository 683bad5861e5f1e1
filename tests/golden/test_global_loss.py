"""The global loss against the released DemoVLP code (golden/demovlp/01_global_loss.npz)."""

import numpy as np
import pytest
import torch

from vlp.alignment import global_similarity
from vlp.losses import global_contrastive

# float32 on both sides: 1e-5 for similarities and losses, 1e-4 of the largest entry for gradients.
TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4


@pytest.fixture(scope="module")
def golden(test_data):
    with np.load(test_data / "golden/demovlp/01_global_loss.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def cases(golden):
    found = sorted(key.removesuffix("_loss") for key in golden if key.endswith("_loss"))
    assert found, "the golden file holds no case"
    return found


def test_similarity_and_loss(golden):
    for case in cases(golden):
        videos, texts = torch.from_numpy(golden[f"{case}_video"]), torch.from_numpy(golden[f"{case}_text"])
        sim = torch.from_numpy(golden[f"{case}_sim"])  # rows are captions
        torch.testing.assert_close(
            global_similarity(videos, texts).T, sim, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda m, c=case: f"{c}: {m}"
        )
        loss = global_contrastive(videos, texts).item()
        assert loss == pytest.approx(float(golden[f"{case}_loss"]), rel=TOLERANCE, abs=TOLERANCE), case


def test_gradients(golden):
    compared = 0
    for case in cases(golden):
        if f"{case}_grad_text" not in golden:
            continue
        leaves = {side: torch.from_numpy(golden[f"{case}_{side}"]).requires_grad_() for side in ("video", "text")}
        global_contrastive(leaves["video"], leaves["text"]).backward()
        for side, leaf in leaves.items():
            expected = golden[f"{case}_grad_{side}"]
            limit = GRADIENT_TOLERANCE * max(np.abs(expected).max(), 1e-3)
            np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=0, atol=limit, err_msg=f"{case} {side}")
            compared += 1
    assert compared
