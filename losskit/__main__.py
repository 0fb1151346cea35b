"""Runs the command line: `python -m losskit`."""

import sys

from losskit.cli import main

if __name__ == "__main__":
    sys.exit(main())
