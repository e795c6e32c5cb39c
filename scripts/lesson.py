"""The command `pgtorch lesson`, from a checkout."""

import sys

from pgtorch.commands.lesson import main

if __name__ == "__main__":
    sys.exit(main())
