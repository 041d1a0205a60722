import click
import pytest

from orbit_core import _command_line


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command that does no more than to call ``body``; return its status and errors."""

    def run(body):
        monkeypatch.setattr("sys.argv", ["program"])
        with pytest.raises(SystemExit) as told:
            _command_line.run("program", click.Command("any", callback=body))
        return told.value.code, capsys.readouterr().err

    return run


def interrupted():
    raise KeyboardInterrupt


def misused():
    raise click.UsageError("one of\n\ta,\n\tb.")


def failed():
    raise click.ClickException("it is broken.")


def left():
    click.get_current_context().exit(3)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (interrupted, (130, "\n")),  # the end of the line in which a terminal shows ^C
        (misused, (2, "program: one of a, b (see program --help)\n")),
        (failed, (1, "program: it is broken\n")),
        (left, (3, "")),
        (lambda: "a result", (0, "")),
        (lambda: None, (0, "")),
    ],
    ids=["interrupt", "usage", "failure", "status", "result", "nothing"],
)
def test_a_command_ends_with_its_status_and_at_most_one_line(run, body, expected):
    assert run(body) == expected
