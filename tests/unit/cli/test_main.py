"""From the command line to an exit status."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from importlib import import_module

import pytest

from klasy.cli import main as cli
from klasy.errors import InputError, KernelRefused, UsageError


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command, capsys):
    """--help of every command says what it does and has an example that begins with its name."""
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    head, _, rest = text.partition("example:\n")
    assert f"usage: klasy {command}" in head
    example = rest.split("\n\n")[0].splitlines()
    assert example
    assert all(line.startswith(f"  klasy {command}") for line in example)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_examples_are_right(command):
    """The options that the examples use are the command's own."""
    module = import_module(f"klasy.cli.{command}")
    parser = cli._parser(command, module)
    known = {option for action in parser._actions for option in action.option_strings}
    for line in module.EXAMPLE.split("\n\n")[0].splitlines():
        own = line.split("|")[0].split("#")[0].split(" -- ")[0]
        assert {word for word in own.split() if word.startswith("-") and word != "-"} <= known, line


def test_help_that_cannot_be_written():
    """Is an error as of any other output."""
    script = (
        "import sys; sys.argv = ['klasy', 'weave', '--help']; from klasy.cli.main import entry_point; entry_point()"
    )
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (3, "klasy: cannot write the output: No space left on device\n")


def run_entry_point(monkeypatch, outcome, argv=("status",)) -> int:
    """What the console script ends with when the command does this."""

    def run(_: object) -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(sys, "argv", ["klasy", *argv])
    monkeypatch.setattr(cli, "main", run)
    with pytest.raises(SystemExit) as end:
        cli.entry_point()
    return end.value.code


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_statuses_are_handed_on(monkeypatch, status):
    """The command's status is the process's."""
    assert run_entry_point(monkeypatch, status) == status


def test_interrupts(monkeypatch):
    """A process ended by a signal ends as a shell would have it: 128 and the signal's number."""
    assert run_entry_point(monkeypatch, KeyboardInterrupt()) == 128 + signal.SIGINT
    assert run_entry_point(monkeypatch, KeyboardInterrupt(signal.SIGTERM)) == 128 + signal.SIGTERM


def test_an_interrupt_in_the_body_of_a_class(monkeypatch, capsys):
    """What comes out of a ``__set_name__`` may come wrapped by Python; Ctrl-C just then is still Ctrl-C."""

    class Interrupted:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    def imported(_: object) -> int:
        class WovenAspect:
            formats = Interrupted()

        return 0

    monkeypatch.setattr(sys, "argv", ["klasy", "status"])
    monkeypatch.setattr(cli, "main", imported)
    with pytest.raises(SystemExit) as end:
        cli.entry_point()
    assert end.value.code == 128 + signal.SIGINT
    assert capsys.readouterr().err == ""


def test_a_bug_is_shown_as_one(monkeypatch, capsys):
    """What nobody foresaw is no fault of the user's: a traceback, and a status of its own."""
    assert run_entry_point(monkeypatch, ZeroDivisionError("oops")) == 70
    text = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in text
    assert "this is a fault of klasy" in text


def test_an_error_of_a_file_is_no_full_disk(monkeypatch, capsys):
    """Only errors without a file's name can be of writing the output."""
    assert run_entry_point(monkeypatch, OSError(errno.EIO, "Input/output error", "/proc/kcore")) == 70
    assert "this is a fault of klasy" in capsys.readouterr().err


def test_errors_and_their_statuses(monkeypatch, capsys):
    """1 for the input, 2 for the command line, 3 for the kernel; a hint on a line of its own."""

    def failing(error):
        class Failing:
            HELP = "x"
            EXAMPLE = "x"

            @staticmethod
            def configure(parser):
                pass

            @staticmethod
            def run(args):
                raise error

        return Failing

    for error, status in (
        (InputError("wrong\nand wrong again", hint="mend it"), 1),
        (UsageError("wrong", hint="so"), 2),
        (KernelRefused("weaving", errno.EPERM, hint="be root"), 3),
    ):
        monkeypatch.setattr(cli, "_load", lambda _, error=error: failing(error))
        assert cli.main(["status"]) == status
        text = capsys.readouterr().err
        assert text == "".join(f"klasy: {line}\n" for line in error.message.splitlines()) + f"  hint: {error.hint}\n"
    assert cli.main(["status", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


def klasy(*argv: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "klasy", *argv], stderr=subprocess.PIPE, check=False, **options)


def test_a_full_disk():
    """Output that cannot be written is an error of the machine's, said in one line."""
    with open("/dev/full", "wb") as full:
        done = klasy("--help", stdout=full)
    assert done.returncode == 3
    assert done.stderr == b"klasy: cannot write the output: No space left on device\n"


def test_nobody_reads():
    """A reader that goes away is no error that needs words."""
    reading, writing = os.pipe()
    os.close(reading)
    done = klasy("--help", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_an_ascii_terminal(tmp_path):
    """A locale that cannot show a character is no reason to fail."""
    aspect = tmp_path / "größe.asp"
    aspect.write_text("aspect größe {}")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = klasy("check", str(aspect), stdout=subprocess.PIPE, env=environment)
    assert done.returncode == 1
    assert b"gr\\xf6\\xdfe.asp:1:" in done.stderr


@pytest.mark.parametrize(
    ("redirection", "status", "out", "err"),
    [
        (">&-", 3, "", "klasy: cannot write the output: Bad file descriptor\n"),
        ("2>&-", 0, "klasy", ""),
        (">&- 2>&-", 3, "", ""),
        ("<&-", 0, "klasy", ""),
        ("<&- >&- 2>&-", 3, "", ""),
    ],
)
def test_closed_streams(redirection, status, out, err):
    """Streams that the shell closed are as with other programs: what must be written there cannot be."""
    line = f'exec "{sys.executable}" -m klasy --version {redirection}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:5], done.stderr) == (status, out, err)


def test_nothing_to_read_from():
    """Standard input that is closed cannot be read, and that is said."""
    line = f'exec "{sys.executable}" -m klasy check - <&-'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "klasy: cannot read standard input: Bad file descriptor\n")


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_errors_that_cannot_be_told(redirection):
    """Where nobody can be told what is wrong the exit status tells it all the same, or that nothing could be told."""
    line = f'exec "{sys.executable}" -m klasy {{}} {redirection}'
    for command, status in (("check /nowhere.asp", 1), ("--unknown", 2), ("weave", 2)):
        done = subprocess.run(["sh", "-c", line.format(command)], capture_output=True, text=True, check=False)
        assert done.stdout == ""
        assert done.returncode == status or (status == 2 and done.returncode == 3)
