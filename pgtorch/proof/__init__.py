"""Every gradient found in two ways, as rows of a table: what `pgtorch verify` prints.

`exact.py` and `trajectories.py` compute expected gradients without sampling; each `*_rows.py` compares one part of the
core with another way to get the same number; `suite.py` decides which rows a policy and an environment get.
`verify_estimator` judges anyone's loss and advantages, in the small `processes.py`; `published.py` has known ones.

`reference.py` is all of training a second time; `twin.py` puts a trainer beside it.

Only `run.py`, `pgtorch.exercises` and `pgtorch.commands` import this room; it imports the core, `pgtorch.lesson` and
`pgtorch.record`. All random numbers come from a generator seeded with the `seed` argument, so rows are reproducible,
and torch's global stream is not touched.
"""

from pgtorch.proof.estimators import verify_estimator as verify_estimator
from pgtorch.proof.processes import EpisodeBatch as EpisodeBatch
