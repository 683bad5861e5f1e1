"""The command line: ``regionvlp``."""

import json
import os
import signal
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(
    name="regionvlp", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Videos and captions to a region-aligned video-language model, as a resumable DAG.",
)  # fmt: skip
out, err = Console(highlight=False), Console(stderr=True, highlight=False)

ConfigArgument = Annotated[
    str, typer.Argument(help="Shipped configuration (see 'regionvlp configs') or path of a YAML file.")
]
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder of all artifacts.", envvar="REGIONVLP_WORKSPACE")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field: --set pretrain.train.optimizer.lr=3e-5 (repeatable)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of tables and bars.")]
PlainOption = Annotated[bool, typer.Option("--no-orchestrator", help="Run the plain functions, without Prefect.")]
DEFAULT_WORKSPACE = Path("workspace")
STOPPED = "stopped; what was committed stays, the same command goes on from there"


@app.command()
def run(
    config: ConfigArgument,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    start: Annotated[
        str | None, typer.Option("--from", help="First stage or step; what it needs must be done.")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", help="The one stage or step to run.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Last stage or step; what it needs is run too.")] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    no_orchestrator: PlainOption = False,
) -> None:
    """Run the pipeline of a configuration; what is done already is not done again."""
    from flows.run import run_pipeline

    with clear_errors():
        run_pipeline(
            config,
            workspace,
            overrides or [],
            start=start,
            only=only,
            until=until,
            as_json=as_json,
            plain=no_orchestrator,
        )


def _stage_command(stage: str, purpose: str) -> None:
    def command(
        config: ConfigArgument,
        workspace: WorkspaceOption = DEFAULT_WORKSPACE,
        overrides: SetOption = None,
        as_json: JsonOption = False,
        no_orchestrator: PlainOption = False,
    ) -> None:
        from flows.run import run_pipeline

        with clear_errors():
            run_pipeline(config, workspace, overrides or [], only=stage, as_json=as_json, plain=no_orchestrator)

    command.__doc__ = f"{purpose} Runs this stage alone; what it needs must be done."
    app.command(name=stage)(command)


for _stage, _purpose in {
    "corpora": "Annotation files -> manifests.",
    "sample": "Media -> frame stores.",
    "train-detector": "Annotated boxes -> detector weights.",
    "extract": "Frame stores -> region stores.",
    "pretrain": "Region stores -> pre-trained checkpoint.",
    "finetune": "Checkpoint -> fine-tuned checkpoints.",
    "evaluate": "Checkpoints -> metrics and rankings.",
    "report": "Everything so far -> report.html.",
}.items():
    _stage_command(_stage, _purpose)


@app.command()
def status(
    config: ConfigArgument,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """What is done, partly done or missing, and which clips failed why."""
    from flows.status import step_states

    with clear_errors():
        rows = step_states(config, workspace, overrides or [])
        if as_json:
            for row in rows:
                print(json.dumps(row))
            return
        table = Table("step", "state", "fingerprint", "seconds", "failed clips", "detail", box=None)
        colours = {"done": "green", "partial": "yellow", "damaged": "red", "absent": "dim"}
        for row in rows:
            colour = colours[row["state"]]
            failed = ", ".join(f"{count} {reason}" for reason, count in row["failed"].items())
            seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
            table.add_row(
                row["step"],
                f"[{colour}]{row['state']}[/{colour}]",
                row["fingerprint"][:8],
                seconds,
                failed,
                escape(row["detail"]),
            )
        out.print(table)


@app.command()
def why(
    step: Annotated[str, typer.Argument(help="Stage or step, for example 'extract' or 'extract-demo'.")],
    config: ConfigArgument,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why a step would run again: which field, input or output differs, and what the rerun would cost."""
    from flows.status import explain

    with clear_errors():
        for answer in explain(step, config, workspace, overrides or []):
            if as_json:
                print(json.dumps(answer))
                continue
            out.print(
                f"[bold]{answer['step']}[/bold] {answer['fingerprint'][:8]}: {escape(answer['verdict'])}",
                soft_wrap=True,
            )
            for difference in answer["differences"]:
                out.print(
                    f"  {difference['kind']} {difference['field']}: {difference['old']!r} -> {difference['new']!r}",
                    markup=False,
                    soft_wrap=True,
                )
            if answer["cost"]:
                out.print(f"  rerun: {answer['cost']}")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this machine: packages, detector, decoders, codecs, Prefect, disk; exits 1 if something is broken."""
    from flows.doctor import examine

    findings = examine()
    for finding in findings:
        if as_json:
            print(json.dumps(finding))
        else:
            mark = {"ok": "[green]ok  [/green]", "warning": "[yellow]warn[/yellow]", "broken": "[red]FAIL[/red]"}[
                finding["state"]
            ]
            out.print(f"{mark} {finding['what']:<14} {escape(finding['detail'])}", soft_wrap=True)
    raise typer.Exit(1 if any(finding["state"] == "broken" for finding in findings) else 0)


@app.command()
def configs() -> None:
    """List the shipped configurations."""
    from flows.config import shipped_configs

    for name, path in shipped_configs().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        out.print(f"{name:<24} {first}", markup=False, soft_wrap=True)


@app.command()
def embed(
    media: Annotated[Path, typer.Argument(help="Folder of videos and images, or a CSV/JSONL that lists them.")],
    using: Annotated[str, typer.Option("--using", help="Configuration whose detector and model are used.")] = "demo",
    model: Annotated[str | None, typer.Option("--model", help="Model step; the last fine-tuning if not given.")] = None,
    captions: Annotated[
        Path | None, typer.Option("--captions", help="CSV or JSONL with columns 'file' and 'caption'.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the searchable store.")] = "own",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    no_orchestrator: PlainOption = False,
) -> None:
    """Make your own clips searchable: sample, extract, embed with a model trained here."""
    from flows.own import embed_own

    with clear_errors():
        embed_own(
            media, captions, name=name, using=using, model=model, workspace=workspace, overrides=overrides or [],
            as_json=as_json, plain=no_orchestrator,
        )  # fmt: skip


@app.command()
def search(
    query: Annotated[str, typer.Argument(help='What to look for, for example "a red circle moves left".')],
    name: Annotated[str, typer.Option("--name", help="Name of the searchable store.")] = "own",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    top: Annotated[int, typer.Option("--top", min=1, help="Clips to show.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Find clips of a searchable store by text."""
    from flows.own import search_own

    with clear_errors():
        hits = search_own(query, name=name, workspace=workspace, top=top)
        if as_json:
            for hit in hits:
                print(json.dumps(hit))
            return
        table = Table("rank", "similarity", "clip", "file", box=None)
        for rank, hit in enumerate(hits, 1):
            table.add_row(str(rank), f"{hit['similarity']:.3f}", escape(hit["clip_id"]), escape(hit["media"]))
        out.print(table)


@contextmanager
def clear_errors():
    """Say what went wrong in one message and exit with 1; the traceback is shown when REGIONVLP_TRACEBACK is set."""
    try:
        yield
    except KeyError:  # never how an input problem is told: a defect of ours, shown whole
        raise
    except (ValueError, OSError, RuntimeError, LookupError) as error:
        if os.environ.get("REGIONVLP_TRACEBACK"):
            traceback.print_exc()
        err.print("[red]error:[/red] ", end="")
        err.print(f"{error}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        err.print(STOPPED)
        raise typer.Exit(128 + signal.SIGINT) from None
    except SystemExit as end:
        if end.code == 128 + signal.SIGTERM:
            err.print(STOPPED)
        raise


def main() -> None:
    """Entry point of the ``regionvlp`` command."""
    signal.signal(signal.SIGTERM, _end)
    app(prog_name="regionvlp")


def _end(number: int, _frame: object) -> None:
    """SIGTERM (a scheduler, a closing container) unwinds as Ctrl-C does.

    By default the process would die on the spot: its temporary Prefect server lived on (measured) and training wrote no checkpoint.
    """
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
