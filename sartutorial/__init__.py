"""From a raw ALOS-2 PALSAR-2 scene to a land-cover map: one module per step, one chapter per module."""

__version__ = "0.1.0"


class InputError(ValueError):
    """Input that cannot be used. The message names it, says what is wrong and what to do."""
