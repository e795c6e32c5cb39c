"""Ten exercises in the order of the lesson: a workbook to fill in, and a check that judges it by mathematics.

`solutions.py` has the questions and the answers; `workbook.py` leaves the answers out, and loads a learner's file.
`cases.py` says what an answer must do, found by finite differences, exact gradients and enumeration. `hints.py` knows
typical wrong answers, `effects.py` computes what an answer does to the lesson, and `check.py` puts it all together.

Only `pgtorch.commands` imports this room; it imports the core, `pgtorch.lesson` and `pgtorch.proof`.
"""
