"""``python -m sartutorial`` is ``sartutorial``."""

from sartutorial.cli import main

if __name__ == "__main__":  # dask's worker processes import it as well
    main()
