# Prometheus for hosts that reach no registry: BASE is a Debian root with its prometheus package.
ARG BASE
FROM ${BASE}
USER 65532:65532
ENTRYPOINT ["/usr/bin/prometheus"]
