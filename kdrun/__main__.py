"""`python -m kdrun` is the `kdrun` command."""

import sys

from kdrun.start import obstacle

if __name__ == "__main__":
    if reason := obstacle():  # some would let the import of the command fail
        print(f"kdrun: {reason}", file=sys.stderr)
        raise SystemExit(2)
    from kdrun.cli import main

    raise SystemExit(main())
