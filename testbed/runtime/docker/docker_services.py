"""Containers beside a lab's nodes (Prometheus, Grafana), for either runtime. They listen on loopback only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError
from docker.types import LogConfig, Mount

from testbed.errors import HostError, TestbedError
from testbed.folders import open_to_others
from testbed.runtime.docker import docker_nodes
from testbed.runtime.docker.client import connect
from testbed.runtime.docker.engine import security_options
from testbed.runtime.processes.identity import CONTAINER_UID

SERVICE_ROLE = "service"
PIDS_LIMIT = 256


@dataclass(frozen=True)
class Service:
    """A container that is no node of the lab. Paths are visible in it under the same name."""

    node: str
    image: str
    command: tuple[str, ...] = ()
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()  # made if missing, and handed to the container's user
    environment: Mapping[str, str] = field(default_factory=dict)


def start_service(lab: str, run_id: str, service: Service) -> None:
    """Start (or keep) a service. Raises HostError without an engine, TestbedError when it refuses."""
    client = connect()
    if any(one.labels[docker_nodes.LABEL_NODE] == service.node for one in docker_nodes.find(client, lab)):
        return
    for path in service.readable:
        open_to_others(path)
    mounts = [Mount(str(path), str(path), type="bind", read_only=True) for path in service.readable]
    for path in service.writable:
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, CONTAINER_UID, CONTAINER_UID)
        mounts.append(Mount(str(path), str(path), type="bind"))
    run_container(
        client,
        lab=lab,
        run_id=run_id,
        node=service.node,
        role=SERVICE_ROLE,
        image=service.image,
        command=list(service.command),
        mounts=mounts,
        network_mode="host",
        environment=dict(service.environment),
    )


def restart_service(lab: str, node: str) -> None:
    """Start a service that has ended once more. Raises HostError without an engine, TestbedError when it refuses."""
    client = connect()
    try:
        client.containers.get(docker_nodes.container_name(lab, node)).start()
    except APIError as error:
        raise TestbedError(f"the engine did not start {node!r} again: {error.explanation}") from error
    finally:
        client.close()


def remove_services(lab: str) -> None:
    """Remove a lab's services. Nothing happens without an engine: then none runs."""
    try:
        client = connect(timeout_seconds=10)
    except HostError:
        return
    docker_nodes.remove(client, lab, role=SERVICE_ROLE)
    client.close()


def run_container(
    client: docker.DockerClient,
    *,
    lab: str,
    run_id: str,
    node: str,
    role: str,
    image: str,
    command: list[str],
    **options: Any,
) -> None:
    """Start a container of ours: as an ordinary user, without capabilities, on a read-only root, found by its labels.

    Raises TestbedError when the engine refuses.
    """
    offered = security_options(client)
    confinement = ["no-new-privileges"]
    if "selinux" in offered:  # a label would allow the lab's folder, and still not the sockets of programs on the host
        confinement.append("label=disable")
    if "userns" in offered:  # users are remapped: the lab's folder is closed to those, and no wire is theirs
        options["userns_mode"] = "host"
    try:
        client.containers.run(
            image,
            command,
            detach=True,
            name=docker_nodes.container_name(lab, node),
            user=f"{CONTAINER_UID}:{CONTAINER_UID}",
            cap_drop=["ALL"],
            security_opt=confinement,
            read_only=True,
            tmpfs={"/tmp": "mode=1777,size=256m"},
            pids_limit=PIDS_LIMIT,
            log_config=LogConfig(type="json-file", config={"max-size": "20m"}),
            labels=docker_nodes.labels(lab, run_id, node, role),
            **options,
        )
    except APIError as error:
        raise TestbedError(f"the engine did not start a container for {node!r}: {error.explanation}") from error
