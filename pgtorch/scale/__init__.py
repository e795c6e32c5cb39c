"""Many learners at once: the lesson's side by side, others in a process for each core.

Imports everything below it, but not `restaurant_env`. Only `pgtorch.commands` imports it.
"""
