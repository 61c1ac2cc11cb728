"""From a raw ALOS-2 PALSAR-2 scene to a land-cover map: one module per step, one chapter per module."""

__version__ = "0.1.0"


class InputError(ValueError):
    """Input that cannot be used. The message names it, says what is wrong and what to do."""

    def __init__(self, message: str) -> None:
        # A loader's worker process sends its error home as the text of a traceback: keep its end.
        super().__init__(message.rpartition("sartutorial.InputError: ")[2].rstrip())
