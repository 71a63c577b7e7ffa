"""One exception tree.

The first split is the one a retry policy needs: trying again cannot mend a `PermanentError`,
and may well mend a `TransientError`. Every message says what was found, what was expected and
what to do next.
"""


class EvergreenError(Exception):
    """Anything this package raises on purpose."""


class PermanentError(EvergreenError):
    """Trying again with the same data and configuration gives the same failure."""


class TransientError(EvergreenError):
    """The world was not ready; the same call may succeed later."""


class ConfigError(PermanentError):
    """A use case, a setting or a SQL file is wrong."""


class SourceError(PermanentError):
    """The source answered, and what it holds cannot be read as declared."""


class SourceMissingError(TransientError):
    """The source does not have the requested day (yet)."""


class ValidationError(PermanentError):
    """A batch broke a rule of its contract; nothing was published."""


class ConservationError(PermanentError):
    """Rows in differ from rows accepted + quarantined + duplicates + erased."""


class LimitError(PermanentError):
    """The SQL of a use case took more time, memory or disk than it may."""


class LookAheadError(PermanentError):
    """Feature SQL read rows at or after its `as_of`."""


class LookBackError(PermanentError):
    """Feature SQL told merged days from single ones."""


class CrossingError(PermanentError):
    """Feature SQL let what it says of an entity depend on other entities, and works in shards."""


class IncidentError(PermanentError):
    """The data of a night are bad; the decision is on record and somebody has to look."""


class NotReadyError(PermanentError):
    """A step was asked for something whose input does not exist yet."""


class StagingError(PermanentError):
    """What an earlier task of the run staged is missing or damaged."""


class DamagedError(PermanentError):
    """A file of the lake is missing, or is not what was written.

    `found` is what is wrong with it, without what to do.
    """

    def __init__(self, message: str, found: str = "") -> None:
        super().__init__(message)
        self.found = found or message


class ErasedError(PermanentError):
    """What is asked for held rows of somebody who was erased."""


class GapError(TransientError):
    """Earlier days are not there yet; they may be on their way, in runs beside this one."""


class LedgerConflictError(PermanentError):
    """Another actor changed the champion that a decision was about; it must be decided again."""


class LedgerDamagedError(PermanentError):
    """The release ledger is not what was written, so nobody can say who is in charge."""


class ServiceDownError(TransientError):
    """A service that should be running (Postgres, Airflow, MLflow) does not answer."""


class BusyError(TransientError):
    """Somebody else holds what this call needs for itself; waiting helps."""


class DiskFullError(TransientError):
    """There is no room left where something has to be written."""
