"""What can go wrong, in words that name the remedy.

Expected failure of a pose estimate is a value (`types.Lost`), not an exception. These
exceptions are for input and set-up that nobody can work with; the command line prints
them as one line, the node puts them into its diagnostics.
"""


class L2MError(Exception):
    """Anything this package refuses; the message says what, where and what to do."""


class InvalidInput(L2MError, ValueError):
    """A value, an image, a message or a file that cannot be what it should be."""


class ModelError(L2MError):
    """A checkpoint, model card, graph or engine that does not fit."""


class BackendUnavailable(L2MError):
    """An inference engine that is not installed or has no device; names what to install."""


class MapError(L2MError):
    """A map that cannot be opened, read or written; the message says what to do."""
