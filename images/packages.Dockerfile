# The dependency layer of the node image: rebuilt only when a requirement, a pin or the base changes.
# The build has no network; the wheels were downloaded on the host and lie in the context.
ARG BASE
FROM ${BASE} AS wheels
LABEL testbed.image=scratch
COPY requirements.txt constraints.txt /
COPY wheels /wheels
# pip runs from its own wheel: the base has none. Headers and tests are a fifth of torch and never imported.
RUN PYTHONPATH="$(echo /wheels/pip-*.whl)" python3 -m pip install --quiet --no-index --find-links /wheels --root-user-action ignore \
        --constraint /constraints.txt --target /opt/packages --requirement /requirements.txt \
    && rm -rf /opt/packages/torch/include /opt/packages/torch/test /opt/packages/bin \
    && find /opt/packages/torch/bin -type f ! -name torch_shm_manager -delete

FROM ${BASE}
COPY --from=wheels /opt/packages /opt/packages
