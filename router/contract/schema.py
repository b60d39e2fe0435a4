"""What every format of a message shares: the version that is written, and the two ways in which a message is skipped."""

SCHEMA = 1
"""The version this code writes, for every topic."""


class UnknownSchema(ValueError):
    """A message of a version this reader does not know: skip it and count it."""


class Malformed(ValueError):
    """A message whose bytes do not make an event: skip it and count it."""
