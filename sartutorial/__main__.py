"""``python -m sartutorial`` is ``sartutorial``."""

from sartutorial.cli import main

main()
