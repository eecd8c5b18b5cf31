"""The program as a shell sees it: exit codes, what goes to which stream, completion, help."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.core
import typer.main
from typer.testing import CliRunner

from sparse_compiler import cli
from sparse_compiler.errors import ArtifactError, PassError

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "command_line.md").read_text()
HERE = "tests.test_command_line:make"
ANSI = "\x1b["
COMMANDS = ("compile", "inspect", "run", "sparsify", "bench", "doctor", "calibrate", "cache list",
            "cache size", "cache clear")  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def program(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sparse_compiler.cli", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", **variables},
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def commands(group: typer.core.TyperGroup, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its full name."""
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


FOUND = dict(commands(typer.main.get_group(cli.app)))


def test_the_commands_are_those_of_the_page() -> None:
    assert set(FOUND) == set(COMMANDS)
    for name in COMMANDS:
        assert re.search(rf"^\|.*`{name}[` ]", PAGE, re.M), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_speaks_json_and_explains_itself(name: str) -> None:
    command = FOUND[name]
    options = {option for param in command.params for option in param.opts}
    assert "--json" in options
    assert command.help and command.help.split("\n\n")[0].endswith(".")
    for param in command.params:
        assert getattr(param, "help", None), f"{name} {param.name} has no help"
        if param.name != "help":
            assert param.metavar is not None, f"{name} {param.name} shows the type of Python"


def test_help_has_every_command() -> None:
    text = CliRunner().invoke(cli.app, ["--help"]).stdout
    assert all(name.split()[0] in text for name in COMMANDS)
    assert "Exit codes" in text


@pytest.mark.parametrize(
    ("words", "offered"),
    [("sparse-compiler in", ["inspect"]), ("sparse-compiler cache ", ["list", "clear", "size"])],
)
def test_completion(words: str, offered: list[str]) -> None:
    """As bash asks for it. It must not wait for torch."""
    done = program(
        _SPARSE_COMPILER_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
    )
    assert done.stdout.split() == offered


def test_a_usage_error() -> None:
    done = program("inspect", HERE, "--diff")
    assert (done.returncode, done.stdout) == (cli.EXIT_USER_ERROR, "")
    assert "--after" in done.stderr


def test_a_defect_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(prog_name: str) -> None:
        raise PassError("the pass fuse-pointwise failed")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == cli.EXIT_DEFECT
    assert "please report" in capsys.readouterr().err


@pytest.mark.parametrize("code", [cli.EXIT_DEFECT, cli.EXIT_USER_ERROR, cli.EXIT_INTERRUPTED, 0])
def test_exit_codes_are_documented(code: int) -> None:
    assert re.search(rf"^\| {code} \|", PAGE, re.M)


@pytest.mark.system
def test_interrupted() -> None:
    command = [sys.executable, "-c", "import time; from sparse_compiler import cli; "
               "cli.app.command('wait')(lambda: (print('here', flush=True), time.sleep(60)));"
               "import sys; sys.argv = ['x', 'wait']; cli.main()"]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == b"here\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == cli.EXIT_INTERRUPTED


@pytest.mark.system
@pytest.mark.usefixtures("cached_kernels")
def test_a_pipe_gets_whole_lines_without_colours() -> None:
    done = program("inspect", HERE, "--why", "0")
    assert done.returncode == 0 and ANSI not in done.stdout + done.stderr
    assert done.stderr == "", "no spinner in a pipe"
    longest = max(done.stdout.splitlines(), key=len)
    assert len(longest) > 80, "a table is not cut to a terminal's width"
    assert "…" not in done.stdout


@pytest.mark.system
def test_doctor() -> None:
    done = program("doctor", "--json")
    findings = json.loads(done.stdout)
    assert {"C++ compiler", "torch", "cache folder"} <= {f["name"] for f in findings}
    assert all(set(f) == {"name", "ok", "what", "fix", "needed"} for f in findings)
    broken = program("doctor", "--json", SPARSE_COMPILER_CXX="no-such-compiler")
    assert broken.returncode == 1
    missing = [f for f in json.loads(broken.stdout) if f["needed"] and not f["ok"]]
    assert {f["name"] for f in missing} == {"C++ compiler", "OpenMP"}


@pytest.mark.system
@pytest.mark.usefixtures("cached_kernels")
@pytest.mark.parametrize("option", ["--html", "--explorer"])
def test_a_file_that_cannot_be_written(option: str) -> None:
    with pytest.raises(ArtifactError, match="cannot write /no/such/folder/file"):
        CliRunner().invoke(
            cli.app, ["inspect", HERE, option, "/no/such/folder/file"], catch_exceptions=False
        )
