"""`python -m sstpfarm` is the `sstpfarm` command."""

import sys

from sstpfarm.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
