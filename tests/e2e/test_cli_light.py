"""The command line answers at once, because it imports what is heavy only where it is used."""

import subprocess
import sys

import pytest

HEAVY = ("asyncpg", "numba", "pandas", "plotly", "polars", "pydantic", "scipy", "statsmodels", "torch")
CODE = """
import sys
from partita.controller.cli.main import main
try:
    main({args!r})
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
print("|", *sorted({heavy!r} & set(sys.modules)))
"""


@pytest.mark.parametrize("args", [["--help"], ["--version"], []])
def test_help_and_version_import_nothing_heavy(args: list[str]) -> None:
    code = CODE.format(args=args, heavy=set(HEAVY)).replace(
        "assert stop.code in (0, None)", "assert stop.code in (0, 2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "partita" in done.stdout.lower() + done.stderr.lower()
    assert done.stdout.rsplit("|", 1)[1].split() == []


@pytest.mark.parametrize(
    "command",
    ["demo", "replay", "capacity", "sweep", "compare", "forecast", "explain", "trace", "db", "plugins", "mig"],
)
def test_each_command_explains_itself(command: str) -> None:
    from click.testing import CliRunner

    from partita.controller.cli.main import cli

    shown = CliRunner().invoke(cli, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Usage: cli {command}" in shown.output


def test_the_commands_with_a_story_have_examples() -> None:
    from click.testing import CliRunner

    from partita.controller.cli.main import cli

    for command in ("demo", "replay", "capacity", "sweep", "compare", "explain"):
        assert f"Examples:\n    partita {command}" in CliRunner().invoke(cli, [command, "--help"]).output
