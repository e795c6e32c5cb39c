"""Many processes (torchrun) and many learners: the lesson's side by side, others in a process for each core.

Imports everything below it, but not `restaurant_env`. Only `pgtorch.commands` imports it, except that `pgtorch.run`
imports `shards`, which with `peers` needs the core only.
"""
