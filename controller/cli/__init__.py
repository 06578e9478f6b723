"""The command line: one module a command, loaded only when it is called."""

from partita.controller.cli.main import main

__all__ = ["main"]
