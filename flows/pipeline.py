"""The DAG, read top to bottom: start reading regionvlp here.

``pipeline`` is the whole; one flow per stage is below it, each of which can be deployed and scheduled alone. Prefect schedules few, long
tasks: one per lane of shards, one to finish a step. What is done is decided by storage alone: a done step's task comes back at once in a
state named ``Cached``, and Prefect's database is never read.
"""

from prefect import flow

from flows.config import PipelineConfig
from flows.tasks import Session, run_step


@flow(name="regionvlp", flow_run_name="{config.name}", persist_result=False)
def pipeline(
    config: PipelineConfig,
    workspace: str = "workspace",
    start: str | None = None,
    only: str | None = None,
    until: str | None = None,
) -> dict[str, str]:
    """From annotation files and media to the report.

    Args:
        config: the whole configuration.
        workspace: folder of all artifacts.
        start: first stage or step to run (``--from``); None means the first.
        only: the one stage or step to run.
        until: last stage or step to run.
    Returns:
        Folder of each selected step's artifact, relative to the workspace.
    """
    with Session.open(config, workspace, start=start, only=only, until=until) as session:
        for corpus in config.corpora:
            corpora(config, workspace, corpus)
        for corpus in config.corpora:
            sample(config, workspace, corpus)
        if config.detector.train:
            train_detector(config, workspace)
        for corpus in config.extracted_corpora():
            extract(config, workspace, corpus)
        if config.pretrain:
            pretrain(config, workspace)
        for task in session.finetunings():
            finetune(config, workspace, task)
        for name in config.evaluate:
            evaluate(config, workspace, name)
        for name in config.embed:
            embed(config, workspace, name)
        report(config, workspace)
        return session.folders()


@flow(name="corpora", flow_run_name="corpora-{corpus}", persist_result=False)
def corpora(config: PipelineConfig, workspace: str, corpus: str) -> None:
    """Annotation files -> manifest."""
    run_step(config, workspace, f"corpora-{corpus}")


@flow(name="sample", flow_run_name="sample-{corpus}", persist_result=False)
def sample(config: PipelineConfig, workspace: str, corpus: str) -> None:
    """Media -> frame store."""
    run_step(config, workspace, f"sample-{corpus}")


@flow(name="train-detector", flow_run_name="train-detector", persist_result=False)
def train_detector(config: PipelineConfig, workspace: str) -> None:
    """Annotated boxes -> detector weights."""
    run_step(config, workspace, "train-detector")


@flow(name="extract", flow_run_name="extract-{corpus}", persist_result=False)
def extract(config: PipelineConfig, workspace: str, corpus: str) -> None:
    """Frame store -> region store."""
    run_step(config, workspace, f"extract-{corpus}")


@flow(name="pretrain", flow_run_name="pretrain", persist_result=False)
def pretrain(config: PipelineConfig, workspace: str) -> None:
    """Region store -> checkpoint."""
    run_step(config, workspace, "pretrain")


@flow(name="finetune", flow_run_name="finetune-{task}", persist_result=False)
def finetune(config: PipelineConfig, workspace: str, task: str) -> None:
    """Checkpoint -> checkpoint of one downstream task."""
    run_step(config, workspace, f"finetune-{task}")


@flow(name="evaluate", flow_run_name="evaluate-{name}", persist_result=False)
def evaluate(config: PipelineConfig, workspace: str, name: str) -> None:
    """Checkpoint -> metrics and rankings."""
    run_step(config, workspace, f"evaluate-{name}")


@flow(name="embed", flow_run_name="embed-{name}", persist_result=False)
def embed(config: PipelineConfig, workspace: str, name: str) -> None:
    """Checkpoint and region store -> searchable embeddings."""
    run_step(config, workspace, f"embed-{name}")


@flow(name="report", flow_run_name="report", persist_result=False)
def report(config: PipelineConfig, workspace: str) -> None:
    """Everything so far -> report.html."""
    run_step(config, workspace, "report")
