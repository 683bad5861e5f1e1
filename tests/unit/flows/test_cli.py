"""What the command line prints."""

from typer.testing import CliRunner

from flows.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_names_of_clips_are_printed_as_they_are(monkeypatch):
    """Square brackets are rich's markup: '[red]x' lost its first part, and '[/x]' ended in a traceback."""
    hit = {"clip_id": "[red]a", "media": "x[/y].mp4", "similarity": 0.5}
    monkeypatch.setattr("flows.own.search_own", lambda *_, **__: [hit])
    shown = run("search", "a red circle")
    assert shown.exit_code == 0, shown.exception
    assert "[red]a" in shown.output
    assert "x[/y].mp4" in shown.output


def test_each_shipped_configuration_is_listed_on_one_line():
    lines = run("configs").output.splitlines()
    assert [line.split()[0] for line in lines] == ["demo", "demovlp-webvid-cc3m", "msrvtt-frames"]
