"""The command `pgtorch evaluate`, from a checkout."""

import sys

from pgtorch.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
