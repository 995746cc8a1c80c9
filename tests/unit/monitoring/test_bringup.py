"""What Grafana and Prometheus are told, and as whom they run."""

from __future__ import annotations

from pathlib import Path

from testbed.monitoring.bringup import grafana_environment


def test_nobody_logs_in_to_grafana() -> None:
    first, second = (grafana_environment(Path("/p"), Path("/d"), "http://127.0.0.1:1", 2) for _ in range(2))
    assert first["GF_AUTH_BASIC_ENABLED"] == "false"
    assert first["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert first["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert first["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert first["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    for secret in ("GF_SECURITY_ADMIN_PASSWORD", "GF_SECURITY_SECRET_KEY"):
        assert len(first[secret]) >= 32
        assert first[secret] != second[secret]
