"""The exceptions that embedmill raises on purpose.

    EmbedmillError
    ├── Refused            the request cannot be carried out as given           exit 2
    │   ├── ManifestError      a manifest cannot be read, or `--strict` met a bad line
    │   ├── ModelError         a model is unknown, unpinned, unsafe or incomplete
    │   ├── SpecMismatch       the job exists with another spec, plan or space
    │   └── NotAllowed         a location lies outside the allowed roots
    ├── Stopped            the job stopped and goes on when it is called again   exit 3
    │   └── LimitReached       its --max-cost is spent, or its --deadline over       exit 4
    ├── StoreError         the store failed, or does not keep what it was told
    │   ├── NotFound           the object does not exist
    │   └── StoreUnavailable   the store cannot be read or written now; later it may
    ├── Conflict           a published object belongs to another plan
    ├── BrokerError        Redis cannot be started or reached
    └── WorkerUnfit        this process must not compute any further             exit 70
        └── DeviceFailed       nor may any other on the same device                   exit 71

The command line turns each of them into one line on stderr and its exit code; any other
exception is a bug and keeps its traceback.
"""


class EmbedmillError(Exception):
    """The root of every expected error."""

    exit_code = 2


class Refused(EmbedmillError):
    """The request cannot be carried out as given; nothing was changed."""


class ManifestError(Refused):
    """A manifest cannot be read, or `--strict` met a line that is no row."""


class ModelError(Refused):
    """A model is unknown, unpinned, unsafe or incomplete."""


class SpecMismatch(Refused):
    """The job exists already, with a spec, plan or space that differs."""


class NotAllowed(Refused):
    """A location lies outside the roots that this process may touch."""


class Stopped(EmbedmillError):
    """The job stopped before its end and goes on when it is called again."""

    exit_code = 3


class LimitReached(Stopped):
    """The job has cost what it may, or its time is over; what is published is whole, and the rest can be resumed."""

    exit_code = 4


class StoreError(EmbedmillError):
    """The store failed, or does not keep what it was told."""

    exit_code = 3


class NotFound(StoreError):
    """The object does not exist."""


class StoreUnavailable(StoreError):
    """The store cannot be read or written now: full, slow, out of reach; later it may."""


class Conflict(EmbedmillError):
    """A published object belongs to another plan than the one at work."""


class BrokerError(EmbedmillError):
    """Redis cannot be started or reached."""


class WorkerUnfit(EmbedmillError):
    """This process must not compute any further; another one may."""

    exit_code = 70


class DeviceFailed(WorkerUnfit):
    """The device of this process computes wrongly, in a new process too."""

    exit_code = 71
