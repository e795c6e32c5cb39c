"""The command `pgtorch verify`, from a checkout."""

import sys

from pgtorch.commands.verify import main

if __name__ == "__main__":
    sys.exit(main())
