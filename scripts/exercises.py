"""The command `pgtorch exercises`, from a checkout."""

import sys

from pgtorch.__main__ import main

if __name__ == "__main__":  # other processes may import this file
    main(["exercises", *sys.argv[1:]])
