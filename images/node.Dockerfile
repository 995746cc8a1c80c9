# One image for UE, edge and controller: the code layer on top of the packages. A code change rebuilds this one only.
ARG BASE
FROM ${BASE}
# One thread per process: torch sizes its pool from the host, and several threads under a quota starve each other.
ENV PYTHONPATH=/opt/testbed:/opt/packages \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    MKL_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    NUMBA_NUM_THREADS=1 \
    NUMBA_CACHE_DIR=/tmp/numba \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    HOME=/tmp \
    LANG=C.UTF-8
COPY code /opt/testbed
RUN python3 -m compileall -q /opt/testbed
USER 65532:65532
WORKDIR /tmp
