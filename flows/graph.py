"""From a configuration to the DAG: which steps there are and what each needs."""

from flows.config import PipelineConfig
from flows.dag import Dag, Step
from flows.steps import corpora, embed, evaluate, extract, report, sample, train, train_detector


def build_dag(config: PipelineConfig) -> Dag:
    """All steps of a configuration, inputs before those that need them.

    Reads annotation files to digest them; media are listed, not read. Raises what the corpora raise for files that are not there.
    """
    steps: dict[str, Step] = {}

    def add(step: Step) -> Step:
        steps[step.name] = step
        return step

    clips = {name: add(corpora.step(name, section)) for name, section in config.corpora.items()}
    frames = {name: add(sample.step(name, config, clips[name])) for name in config.corpora}
    trained = None
    if config.detector.train:
        trained = add(train_detector.step(config, steps))
    for name in config.extracted_corpora():
        add(extract.step(name, config, clips[name], frames[name], trained))
    if config.pretrain:
        add(train.step("pretrain", config.name, config, config.pretrain, steps))
    for name in _in_init_order(config):
        add(train.step("finetune", name, config, config.finetune[name], steps))
    for name, section in config.evaluate.items():
        add(evaluate.step(name, config, section, steps))
    for name, section in config.embed.items():
        add(embed.step(name, section, steps))
    add(report.step(config, steps))
    return Dag(steps)


def _in_init_order(config: PipelineConfig) -> list[str]:
    """Fine-tunings, each after the one it starts from.

    Raises:
        ValueError: fine-tunings that start from each other in a circle.
    """
    ordered: list[str] = []
    waiting = list(config.finetune)
    while waiting:
        ready = [
            n for n in waiting if config.finetune[n].init in (None, "pretrain", *(f"finetune-{o}" for o in ordered))
        ]
        if not ready:
            raise ValueError(
                f"finetune {waiting} start from each other in a circle; one must start from 'pretrain' or null"
            )
        ordered += ready
        waiting = [name for name in waiting if name not in ready]
    return ordered
