"""What a run leaves: its folder, metrics, TensorBoard events, checkpoints and pictures; and the way back from them.

Imports the core, environment and lesson rooms. Only run.py and the rooms below it import this one; the core never does.
"""
