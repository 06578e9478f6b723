"""Every error that Partita raises on purpose.

PartitaError
├── ConfigError              a setting is missing or wrong (names file, key, value)
├── TraceError               a trace or log cannot be used (names file, row, column)
│   └── DrawingEnded         the process that draws its requests has ended before its time
├── StoreError               the database is away or its schema is not ours
│   └── NotLeading           another controller leads, or our own term is over
├── ForecastError            too little history for the model asked
├── PlanError
│   ├── InvalidGeometry      the GPU model does not allow it (carries gpu and geometry)
│   └── Infeasible           no plan meets the constraints (carries what is short, and by how much)
├── PluginError              a plugin raised, was too slow or answered nonsense (carries plugin and hook)
└── ExecutionError           (carries the command)
    ├── Unsupported          this GPU, driver or server cannot do it
    ├── Busy                 something still uses the instance: try later
    └── Failed               tried and failed; the world must be looked at again

The message of each is one sentence for the person at the terminal. `exit_code` is what the command line ends with:
2 where the user's input is wrong, 1 where the run failed.
"""

from __future__ import annotations


class PartitaError(Exception):
    """Base of all errors below; never raised itself."""

    exit_code = 1


class ConfigError(PartitaError):
    """A setting is missing or wrong."""

    exit_code = 2

    def __init__(self, message: str, *, file: str | None = None, key: str | None = None, value: object = None) -> None:
        self.file, self.key, self.value = file, key, value
        where = ": ".join(part for part in (file, key) if part)
        super().__init__(f"{where}: {message}" if where else message)


class TraceError(PartitaError):
    """A trace or log cannot be used."""

    exit_code = 2

    def __init__(self, message: str, *, file: str, row: int | None = None, column: str | None = None) -> None:
        self.file, self.row, self.column = file, row, column
        where = file
        if row is not None:
            where += f", row {row}"
        if column is not None:
            where += f", column {column}"
        super().__init__(f"{where}: {message}")


class DrawingEnded(TraceError):
    """The process that draws the requests of a trace has ended before its time."""

    exit_code = 1


class StoreError(PartitaError):
    """The database is away or its schema is not ours."""


class NotLeading(StoreError):
    """Another controller leads, or our own term is over: nothing may be done any more."""


class ForecastError(PartitaError):
    """There is too little history for the model asked."""


class PlanError(PartitaError):
    """A plan cannot be made or is not allowed."""

    exit_code = 2


class InvalidGeometry(PlanError):
    """The GPU model does not allow this geometry."""

    def __init__(self, message: str, *, gpu: str, geometry: str) -> None:
        self.gpu, self.geometry = gpu, geometry
        super().__init__(f"{gpu}: geometry {geometry!r}: {message}")


class Infeasible(PlanError):
    """No plan meets the constraints; `short` names what is missing and by how much."""

    def __init__(self, message: str, *, short: tuple[str, ...] = ()) -> None:
        self.short = short
        super().__init__(message)


class PluginError(PartitaError):
    """A plugin raised, was too slow or answered nonsense."""

    def __init__(self, message: str, *, plugin: str, hook: str) -> None:
        self.plugin, self.hook = plugin, hook
        super().__init__(f"plugin {plugin}, hook {hook}: {message}")


class ExecutionError(PartitaError):
    """A command could not be carried out."""

    def __init__(self, message: str, *, command: object) -> None:
        self.command = command
        super().__init__(message)


class Unsupported(ExecutionError):
    """This GPU, driver or server cannot do it."""


class Busy(ExecutionError):
    """Something still uses the instance: try later."""


class Failed(ExecutionError):
    """Tried and failed; the world must be looked at again."""
