"""The command `pgtorch train`, from a checkout."""

import sys

from pgtorch.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
