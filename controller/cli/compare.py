"""`partita compare`: results side by side, and whether their differences are more than chance."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the comparison.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors; the file is still written.")
def compare(files: tuple[Path, ...], json_file: Path | None, quiet: bool) -> None:
    """Compare FILES: results of partita replay --json or partita capacity --json, or Parquets of partita sweep.

    Each side is compared with the first. Files that differ by nothing but the seed are one side, so that a difference
    can be told from chance: runs of the same seed meet the same requests and are paired. docs/what-if.md says more.

    \b
    Examples:
      partita compare deferred.json eager.json
      partita compare deferred-1.json deferred-2.json deferred-3.json eager-1.json eager-2.json eager-3.json
      partita compare policies.parquet
      partita compare before.parquet after.parquet --json difference.json
    """
    from partita.controller.cli.printing import print_table
    from partita.controller.results import check_writable, result_text, write_whole
    from partita.controller.whatif.comparing import compare_sides, read_sides
    from partita.controller.whatif.comparison_tables import (
        comparison_document,
        comparison_remarks,
        differences_table,
        means_table,
    )

    if json_file is not None:
        check_writable(json_file, "--json")
    compared = compare_sides(read_sides(files))
    if json_file is not None:
        write_whole(json_file, result_text(comparison_document(compared)))
    if not quiet:
        print_table(means_table(compared))
        print_table(differences_table(compared))
        for line in comparison_remarks(compared):
            click.echo(line)
