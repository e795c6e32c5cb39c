"""What a run writes: its folder, metrics, TensorBoard events, checkpoints and pictures; and how to read them back.

Imports the core and the rooms `environment` and `lesson`. Only `run.py`, `pgtorch.proof`,
`pgtorch.scale` and `pgtorch.commands` import it; the core never does.
"""
