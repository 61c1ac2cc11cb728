"""Files: whole, or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; it replaces ``path`` only if all went well.

    Raises OSError naming ``path`` if it cannot be written.
    A killed run leaves the old file or none, and a ``.partial`` beside it that the next run replaces.
    """
    path = Path(path)
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if not isinstance(error, OSError) or str(path) in str(error):
            raise
        raise OSError(f"{path}: could not be written ({error.__cause__ or error})") from error
