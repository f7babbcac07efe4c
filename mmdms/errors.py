"""Errors that a user can act on.

Each message says what was received and what to do about it. The command line
tools print these as one line and exit with status 2 (``mmdms.openmmlab.cli``);
anything else is a bug and keeps its traceback.
"""


class MMDMSError(Exception):
    """Base of all errors raised for input that mmdms cannot work with."""


class ConfigError(MMDMSError, ValueError):
    """A config is missing, does not parse, or cannot do what was asked."""


class CheckpointError(MMDMSError, ValueError):
    """A checkpoint is missing, unreadable, or of another architecture."""


class StructureError(MMDMSError, ValueError):
    """A structure is damaged or does not fit the network."""


class BudgetError(MMDMSError, ValueError):
    """A budget is out of range or out of reach."""


class GeometryError(MMDMSError, ValueError):
    """A network does other operations on a large input than on a small one."""


class ModelError(MMDMSError, ValueError):
    """A network cannot be copied, called on the inputs that were given, or compared by its outputs."""


class AdapterError(MMDMSError, ValueError):
    """An adapter of the user's computes something else than the module that it stands in for."""


class MissingDependencyError(MMDMSError, ImportError):
    """An optional package is needed and not installed."""


class SearchWarning(UserWarning):
    """A search goes on, and what its loop does is hardly meant; the message says the remedy."""
