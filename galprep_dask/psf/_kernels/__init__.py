"""Arithmetic of the PSF on arrays; the only place that imports JAX and optax.

JAX takes three quarters of a GPU's memory at its first use unless told otherwise. It is told so here, before its
first import, where the user has not said what to do.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
