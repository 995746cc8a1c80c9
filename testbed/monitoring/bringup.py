"""Prometheus and Grafana beside a lab: what is started, where it listens, and the one line that says why not."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.errors import HostError
from testbed.folders import open_to_others
from testbed.installed import shipped
from testbed.protocol.configs import write_config
from testbed.protocol.monitoring import EXPORTER, GRAFANA, PROMETHEUS, CommandConfig, ExporterConfig
from testbed.runtime.base import ProcessSpec, Runtime
from testbed.runtime.docker.client import connect
from testbed.runtime.docker.docker_services import Service, remove_services, restart_service, start_service
from testbed.runtime.docker.images import ensure_grafana_image, ensure_prometheus_image
from testbed.runtime.host import executables
from testbed.runtime.host.facts import in_user_namespace
from testbed.runtime.processes.child import stat_fields
from testbed.runtime.processes.identity import CONTAINER_UID
from testbed.runtime.programs import PROGRAMS

Mode = Literal["auto", "off", "required"]

READY_SECONDS = 10.0
#: The last values are scraped once more before the exporter goes (scrape interval 1 s).
SETTLE_SECONDS = 1.2
GRAFANA_HOME = Path("/usr/share/grafana")


@dataclass(frozen=True)
class Monitoring:
    """What was started: URLs by name, and a line for each thing that was not."""

    urls: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Where the lab's monitoring lives."""

    runtime: Runtime
    run_id: str
    policy: str
    lab_directory: Path
    run_directory: Path
    notify: Callable[[str], None]

    @property
    def folder(self) -> Path:
        return self.lab_directory / "monitoring"

    def start_program(
        self, node: str, arguments: tuple[str, ...], folder: Path, environment: dict[str, str] | None = None
    ) -> None:
        """As an unprivileged user, if this is root: it may read the lab's monitoring folder and write to ``folder``."""
        path = self.lab_directory / "config" / f"{node}.json"
        config = CommandConfig(
            *(self.runtime.lab, self.run_id, node, str(self.lab_directory), arguments, str(folder), environment or {})
        )
        write_config(config, path)
        if os.geteuid() == 0:
            os.chown(self.lab_directory, -1, CONTAINER_UID)
            self.lab_directory.chmod(0o710)
            open_to_others(self.folder)
        self.runtime.start([ProcessSpec(node, "testbed.monitoring.command", path)])


def start_monitoring(
    runtime: Runtime,
    *,
    run_id: str,
    policy: str,
    lab_directory: Path,
    run_directory: Path,
    scenario_path: Path,
    prometheus: Mode = "auto",
    grafana: Mode = "auto",
    notify: Callable[[str], None] = lambda _: None,
) -> Monitoring:
    """Start exporter, Prometheus and Grafana for a lab whose recorder runs or is about to.

    "auto" starts what this host has and notes what it has not; "required" raises HostError instead.
    """
    place = _Place(runtime, run_id, policy, lab_directory, run_directory, notify)
    if prometheus == "off":
        if grafana == "required":
            raise HostError("Grafana is required, and Prometheus, which it shows, is off", fix="Set prometheus: auto.")
        return Monitoring({}, ("Prometheus and Grafana are off in the lab file.",))
    notes: list[str] = []
    urls: dict[str, str] = {}
    try:
        start = _prometheus_starter(place)
    except HostError as error:
        if "required" in (prometheus, grafana):
            raise
        return Monitoring({}, (str(error),))
    _start_exporter(place, scenario_path)
    urls[PROMETHEUS] = start()
    if grafana == "off":
        notes.append("Grafana is off in the lab file.")
    else:
        try:
            urls[GRAFANA] = _start_grafana(place, urls[PROMETHEUS])
        except HostError as error:
            if grafana == "required":
                raise
            notes.append(str(error))
    for name, probe in ((PROMETHEUS, "/-/ready"), (GRAFANA, "/api/health")):
        if name in urls and not _await(urls[name] + probe):
            notes.append(f"{name} does not answer yet; see `testbed logs {name}`.")
    return Monitoring(urls, tuple(notes))


def repair_monitoring(runtime: Runtime, lab_directory: Path) -> list[str]:
    """Start again what was started for this lab and has died; returns its names. Nobody waits for it."""
    last = {status.node: status for status in runtime.processes()}
    dead = [node for node in (EXPORTER, PROMETHEUS, GRAFANA) if node in last and not last[node].running]
    for node in dead:
        path = lab_directory / "config" / f"{node}.json"
        if path.exists():
            runtime.start([ProcessSpec(node, last[node].program, path)])
        else:
            restart_service(runtime.lab, node)
    return dead


def stop_monitoring(runtime: Runtime, *, settle_seconds: float = SETTLE_SECONDS) -> None:
    """Let the last values be scraped, then end Prometheus cleanly: what it has is on disk afterwards.

    Call it after the recorder has taken the last record and before ``runtime.remove``. Idempotent.
    """
    watching = [one for one in runtime.processes() if one.node == PROMETHEUS and one.running]
    if watching:
        time.sleep(settle_seconds)
    for status in watching:
        _end(status.pid)
    remove_services(runtime.lab)


def _end(pid: int, timeout_seconds: float = 5.0) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and _runs(pid):
            time.sleep(0.02)
    except ProcessLookupError:
        return


def _runs(pid: int) -> bool:
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def _start_exporter(place: _Place, scenario_path: Path) -> None:
    place.folder.mkdir(exist_ok=True)
    for name in ("prometheus.yml", "rules.yml"):
        shutil.copy(shipped("grafana", name), place.folder / name)
    config = ExporterConfig(
        lab=place.runtime.lab,
        run_id=place.run_id,
        node=EXPORTER,
        lab_directory=str(place.lab_directory),
        policy=place.policy,
        scenario_path=str(scenario_path),
        targets_path=str(place.folder / "targets.json"),
    )
    path = place.lab_directory / "config" / f"{EXPORTER}.json"
    write_config(config, path)
    place.runtime.start([ProcessSpec(EXPORTER, PROGRAMS["exporter"].module, path)])


def prometheus_arguments(folder: Path, data: Path, port: int) -> tuple[str, ...]:
    return (
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=100y",  # the data belongs to the run's results
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )


def _prometheus_starter(place: _Place) -> _PrometheusProgram | _PrometheusContainer:
    """How Prometheus can be started here. Raises HostError when it cannot."""
    if in_user_namespace():
        raise HostError(
            "Prometheus was not started: a lab without root has a loopback of its own, which no browser reaches",
            fix="Run as root to watch a lab.",
        )
    if place.runtime.name == "docker":
        return _PrometheusContainer(place)
    return _PrometheusProgram(place)


class _PrometheusProgram:
    def __init__(self, place: _Place) -> None:
        [self._program] = executables.require("Prometheus was not started", "prometheus", fix="use --runtime docker")
        self._place = place

    def __call__(self) -> str:
        port = free_port()
        data = self._place.run_directory / PROMETHEUS
        arguments = prometheus_arguments(self._place.folder, Path(), port)
        self._place.start_program(PROMETHEUS, (self._program, *arguments), data)
        return f"http://127.0.0.1:{port}"


class _PrometheusContainer:
    def __init__(self, place: _Place) -> None:
        self._place = place
        self._image = ensure_prometheus_image(connect(), place.notify)

    def __call__(self) -> str:
        port = free_port()
        data = self._place.run_directory / PROMETHEUS
        start_service(
            self._place.runtime.lab,
            self._place.run_id,
            Service(
                node=PROMETHEUS,
                image=self._image,
                command=prometheus_arguments(self._place.folder, data, port),
                writable=(data,),
                readable=(self._place.folder,),
            ),
        )
        return f"http://127.0.0.1:{port}"


def grafana_environment(provisioning: Path, dashboards: Path, prometheus_url: str, port: int) -> dict[str, str]:
    return {
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
        "GF_AUTH_DISABLE_LOGIN_FORM": "true",
        # whoever looks is a viewer: nobody logs in, by any way
        "GF_AUTH_BASIC_ENABLED": "false",
        "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
        "GF_SECURITY_ADMIN_PASSWORD": secrets.token_urlsafe(24),
        "GF_SECURITY_SECRET_KEY": secrets.token_urlsafe(24),
        "GF_USERS_ALLOW_SIGN_UP": "false",
        "GF_SNAPSHOTS_EXTERNAL_ENABLED": "false",
        "GF_PATHS_PROVISIONING": str(provisioning),
        "GF_PATHS_DATA": "/tmp/grafana",
        "GF_PATHS_LOGS": "/tmp/grafana/logs",
        "GF_PATHS_PLUGINS": "/tmp/grafana/plugins",
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": str(dashboards / "lab.json"),
        "GF_DASHBOARDS_MIN_REFRESH_INTERVAL": "1s",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        "GF_LOG_LEVEL": "warn",
        "TESTBED_PROMETHEUS_URL": prometheus_url,
        "TESTBED_DASHBOARDS": str(dashboards),
    }


def _start_grafana(place: _Place, prometheus_url: str) -> str:
    """Grafana's URL. The host's program in the netns runtime if there is one, else a container.

    Raises HostError with the one line that says what is missing.
    """
    port = free_port()
    source = shipped("grafana")
    target = place.folder / "grafana"
    shutil.copytree(source / "provisioning", target / "provisioning", dirs_exist_ok=True)
    shutil.copytree(source / "dashboards", target / "dashboards", dirs_exist_ok=True)
    environment = grafana_environment(target / "provisioning", target / "dashboards", prometheus_url, port)
    program = executables.find("grafana")
    if place.runtime.name != "docker" and program is not None:
        data = place.folder / "grafana-data"
        environment |= {"GF_PATHS_DATA": str(data), "GF_PATHS_LOGS": str(data), "GF_PATHS_PLUGINS": f"{data}/plugins"}
        place.start_program(GRAFANA, (program, "server", f"--homepath={GRAFANA_HOME}"), data, environment)
        return f"http://127.0.0.1:{port}"
    client = connect()
    try:
        image = ensure_grafana_image(client)
    finally:
        client.close()
    start_service(
        place.runtime.lab,
        place.run_id,
        Service(node=GRAFANA, image=image, readable=(place.folder,), environment=environment),
    )
    return f"http://127.0.0.1:{port}"


def free_port() -> int:
    """A port on loopback that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback: no proxy reaches it
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            with direct.open(url, timeout=1):
                return True
        except OSError:
            time.sleep(0.05)
    return False
