"""`partita runtime`: Partita's own batching runtime, for the executor `local`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from partita.controller.cli.options import Database, database_options
from partita.errors import ConfigError

if TYPE_CHECKING:
    from partita.controller.cluster_file import ClusterFile


@click.command()
@click.argument("cluster", type=click.Path(path_type=Path))
@click.option("--log/--no-log", default=True, show_default=True, help="Log requests into the database.")
@click.option("--log-file", type=click.Path(path_type=Path), metavar="FILE", help="Log requests as JSON lines, too.")
@database_options
def runtime(cluster: Path, log: bool, log_file: Path | None, database: Database) -> None:
    """Serve the services that CLUSTER (a YAML file with the executor local) describes, on emulated or torch devices.

    Requests are taken at POST /v1/services/NAME; a controller (partita run) says what is loaded and how it batches. The
    runtime outlives the controller; SIGTERM ends it after what is running.

    \b
    Examples:
      partita runtime cluster.yaml
      curl -d '{"size": 1}' http://127.0.0.1:8700/v1/services/embed
    """
    from partita.controller.cluster_file import ClusterFile

    file = ClusterFile.load(cluster)
    if file.executor.local is None:
        raise ConfigError("the runtime is for the executor local", file=str(cluster), key="executor")
    if not log:
        _serve(file, None, log_file)
        return
    with database.serve() as dsn:
        _serve(file, dsn, log_file)


def _serve(file: ClusterFile, dsn: str | None, log_file: Path | None) -> None:
    from partita.controller.live.runtime import serve_runtime

    entry: Any = file.executor.local
    where = urlsplit(entry.url)
    serve_runtime(file, host=where.hostname or "127.0.0.1", port=where.port or 8700, dsn=dsn, log_file=log_file)
