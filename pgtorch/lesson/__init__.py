"""The lesson: Restaurant-v0 and one bias, as formulas, step by step, and told in the terminal.

This is the only room that imports `restaurant_env`; importing it registers Restaurant-v0. It builds on the core, and
every room but the core and `environment` may import it.
"""

import restaurant_env  # noqa: F401 -- registers Restaurant-v0
