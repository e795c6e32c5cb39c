"""The command `pgtorch benchmark`, from a checkout."""

import sys

from pgtorch.commands.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
