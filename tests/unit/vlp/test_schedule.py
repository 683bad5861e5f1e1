"""The learning rate of the paper, the warm-up and the cosine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.schedule import learning_rate
from vlp.train_config import OptimizerConfig, RetrievalConfig, TrainConfig


def rates(config: OptimizerConfig, steps, *, epochs=None, total_steps=1000) -> list[float]:
    epochs = epochs or [0] * len(steps)
    return [learning_rate(config, epoch=e, step=s, total_steps=total_steps) for e, s in zip(epochs, steps, strict=True)]


def test_paper_pretraining_decays_at_30_and_40():
    epochs = [0, 29, 30, 39, 40, 49]
    found = rates(OptimizerConfig(), [e * 10 for e in epochs], epochs=epochs)
    assert found == pytest.approx([1e-5, 1e-5, 1e-6, 1e-6, 1e-7, 1e-7], rel=1e-12)


def test_paper_finetuning_decays_at_2_4_8():
    found = rates(OptimizerConfig(milestones=(2, 4, 8)), [0] * 10, epochs=list(range(10)))
    assert found == pytest.approx([1e-5] * 2 + [1e-6] * 2 + [1e-7] * 4 + [1e-8] * 2, rel=1e-12)


def test_warmup_rises_linearly_and_meets_the_schedule():
    config = OptimizerConfig(lr=1.0, schedule="constant", warmup_steps=4)
    assert rates(config, range(6)) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_cosine_starts_at_lr_and_ends_at_its_fraction():
    config = OptimizerConfig(lr=2.0, schedule="cosine", final_lr_fraction=0.1)
    assert rates(config, (0, 50, 100), total_steps=101) == pytest.approx([2.0, 1.1, 0.2])


@given(
    st.sampled_from(["milestones", "cosine", "constant"]), st.integers(0, 20), st.integers(0, 200), st.integers(1, 200)
)
def test_rate_is_positive_and_never_above_lr(schedule, warmup, step, total_steps):
    config = OptimizerConfig(schedule=schedule, warmup_steps=warmup, final_lr_fraction=0.01, milestones=(1, 3))
    assert 0 < learning_rate(config, epoch=step // 10, step=step, total_steps=total_steps) <= config.lr


def test_all_problems_of_a_config_are_reported_at_once():
    with pytest.raises(ValueError, match=r"must rise.*betas"):
        OptimizerConfig(milestones=(4, 2), betas=(0.9, 1.0))


@pytest.mark.parametrize("model", [TrainConfig, RetrievalConfig])
def test_every_field_is_described_and_unknown_keys_are_refused(model):
    assert all(field.description for field in model.model_fields.values())
    with pytest.raises(ValueError, match="lerning_rate"):
        model(lerning_rate=1.0)
