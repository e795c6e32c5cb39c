"""The command `pgtorch export`, from a checkout."""

import sys

from pgtorch.__main__ import main

if __name__ == "__main__":  # other processes may import this file
    main(["export", *sys.argv[1:]])
