"""One thread in each process, as in a lab's: several workers with a pool each would wait for each other.

Here, because the libraries read it when they are loaded.
"""

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
