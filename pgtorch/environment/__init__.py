"""Between the trainer and Gymnasium: builds environments, checks what they return, saves and restores their state.

Every room may import this one. It imports no other part of pgtorch.
"""

from pgtorch.environment.vector_check import check_vector_env as check_vector_env
