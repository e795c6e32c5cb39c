"""The command `pgtorch evaluate`, from a checkout."""

import sys

from pgtorch.__main__ import main

if __name__ == "__main__":  # other processes may import this file
    main(["evaluate", *sys.argv[1:]])
