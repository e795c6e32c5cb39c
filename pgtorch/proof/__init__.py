"""Every gradient found in two ways, as rows of a table: what `pgtorch verify` prints.

`exact.py` and `trajectories.py` compute expected gradients without sampling; each `*_rows.py` compares one part of the
core with another way to the same number; `suite.py` says which rows a policy and an environment get.

Only `pgtorch.commands` imports this room; it imports the core and `pgtorch.lesson`. Everything drawn
here comes from a generator made from the `seed` argument, so a row repeats, and torch's global stream is not touched.
"""
