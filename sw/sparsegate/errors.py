"""The errors a user can cause: one sentence, with what was expected and what was found."""


class SparseGateError(ValueError):
    """Bad input. The command line prints the message and exits with status 1."""


class ToolError(SparseGateError):
    """An external tool is missing, too old, or failed."""


class MissingData(SparseGateError):
    """Data of a measurement, or what reads them, are not there: a run of several passes it over."""
