"""What a run leaves: its folder, metrics, TensorBoard events, checkpoints and pictures; and the way back from them.

Imports the core, environment and lesson rooms. Only `run.py` and `pgtorch.commands` import it; the
core never does.
"""
