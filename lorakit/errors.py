"""Everything that can stop a run for a reason its user can mend.

    LorakitError
    ├── SettingsError     config.yaml, flags and --set
    ├── DataError         files of rows
    ├── ModelError        finding, fetching or loading a base model
    ├── AdapterError      an adapter that does not belong to its base
    ├── RunError          the output folder, a checkpoint, or training that learns nothing
    └── ProofError        something merged or exported that is not what it was made from

Each carries place and fault in its message and the remedy in ``hint``. The command line prints both without a traceback
and exits with code 2; with 1 for a ProofError, which no setting mends. Any other exception is a fault of lorakit: the
command line prints a short report, leaves the rest in a log file, and exits with code 1.
"""


class LorakitError(Exception):
    """A fault with a remedy.

    Args:
        message: The place and the fault: ``data/train.json item 3: "target" is missing``.
        hint: The remedy, printed on a line of its own.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class SettingsError(LorakitError):
    """One or more settings are unknown, mistyped or out of bounds."""


class DataError(LorakitError):
    """A file of rows cannot be read, or holds nothing to train on."""


class ModelError(LorakitError):
    """A base model cannot be found, fetched or loaded."""


class AdapterError(LorakitError):
    """An adapter does not belong to the model it should be attached to."""


class RunError(LorakitError):
    """A run cannot start, continue or be trusted."""


class OutputError(LorakitError):
    """Standard output cannot be written, so that whatever comes next would go nowhere."""


class ProofError(LorakitError):
    """What was merged or exported does not compute what it was made from."""

    exit_code = 1
