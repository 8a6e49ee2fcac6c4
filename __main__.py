"""Run by `python -m kdrun` where Python takes this checkout, a directory called kdrun, for the package in it."""

import os
import sys

checkout = os.path.dirname(os.path.abspath(__file__))
print(
    f"kdrun: {checkout} is imported instead of the package kdrun in it: Python searches the working directory first. "
    "Use the command kdrun, or start in another directory",
    file=sys.stderr,
)
raise SystemExit(2)
