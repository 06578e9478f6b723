"""The command that a report names is the one that was given."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from partita.controller.cli.options import Database, command_line, database_options


@click.group()
def tool() -> None:
    pass


@tool.command()
@click.argument("file")
@click.option("-p", "--policy", "policies", multiple=True)
@click.option("--seed", type=int, default=4)
@click.option("--quiet", is_flag=True)
@click.option("--limit", type=float, envvar="LIMIT")
@database_options
def play(file: str, policies: tuple[str, ...], seed: int, quiet: bool, limit: float | None, database: Database) -> None:
    click.echo(command_line())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["a.yaml"], "partita play a.yaml"),
        (["a b.yaml", "-p", "x", "--policy", "y"], "partita play 'a b.yaml' --policy x --policy y"),
        (["a.yaml", "--seed", "4", "--quiet"], "partita play a.yaml --seed 4 --quiet"),
        (["a.yaml", "--dsn", "postgresql://u:secret@h/d", "--data-dir", "d"], "partita play a.yaml"),
    ],
)
def test_a_command_line_is_told_as_given(given: list[str], told: str) -> None:
    result = CliRunner(env={"LIMIT": "3"}).invoke(tool, ["play", *given], prog_name="tool")
    assert result.output == f"{told}\n"
