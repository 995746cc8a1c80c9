"""The images of the docker runtime: which exist, which are needed, what makes them. Tags are hashes of what is inside.

``testbed/base`` is a small Debian with Python, ``testbed/packages`` adds the wheels, ``testbed/node`` adds the code: a
change of the code rebuilds the last one only, in seconds.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Set
from dataclasses import dataclass

import docker
from docker.errors import APIError

from testbed.errors import HostError
from testbed.folders import cache_file
from testbed.installed import shipped
from testbed.runtime.docker.client import engine_errors
from testbed.runtime.docker.docker_build import (
    BASE,
    Flavor,
    Progress,
    build,
    code_files,
    content_hash,
    download_wheels,
    has_image,
    import_debian,
    pull,
)

REPOSITORIES = ("testbed/base", "testbed/packages", "testbed/node", "testbed/prometheus")
#: What torch links to beside libc; Python's own images hold it already.
NODE_PACKAGES = ("python3", "libstdc++6")
PYTHON_REFERENCE = f"python:{BASE.python}-slim-{BASE.debian}"
PROMETHEUS_REFERENCE = "prom/prometheus:v2.53.3"
GRAFANA_REFERENCE = "grafana/grafana-oss:11.4.0"


@dataclass(frozen=True)
class Image:
    """One image of ours on this engine. ``current``: what a lab of this checkout would use."""

    tag: str
    size_bytes: int
    created: str
    current: bool
    in_use: bool


def base_tag(packages: tuple[str, ...], reference: str) -> str:
    recipe = f"{reference} {BASE.suite} {' '.join(packages)}"
    return f"testbed/base:{content_hash({'recipe': recipe.encode()})}"


def packages_tag(flavor: Flavor) -> str:
    parts = {
        "Dockerfile": shipped("images", "packages.Dockerfile").read_bytes(),
        "requirements": shipped("images", "requirements.txt").read_bytes(),
        "constraints": shipped("constraints.txt").read_bytes(),
        "base": _node_base_tag().encode(),
        "flavor": flavor.encode(),
    }
    return f"testbed/packages:{content_hash(parts)}"


def node_tag(flavor: Flavor = "cpu") -> str:
    """The tag that a lab of this checkout runs. Reads every source file (milliseconds)."""
    return _node_tag(flavor, code_files())


def _node_tag(flavor: Flavor, code: Mapping[str, bytes]) -> str:
    parts = {
        **code,
        "Dockerfile": shipped("images", "node.Dockerfile").read_bytes(),
        "packages": packages_tag(flavor).encode(),
    }
    return f"testbed/node:{content_hash(parts)}"


def prometheus_tag() -> str:
    parts = {
        "Dockerfile": shipped("images", "prometheus.Dockerfile").read_bytes(),
        "reference": PROMETHEUS_REFERENCE.encode(),
    }
    return f"testbed/prometheus:{content_hash(parts)}"


def ensure_node_image(client: docker.DockerClient, flavor: Flavor, progress: Progress) -> str:
    """The node image's tag, built first where it is missing.

    Raises HostError when base or wheels cannot be had, TestbedError when a build step fails.
    """
    code = code_files()  # read once: the tag must name what is built
    tag = _node_tag(flavor, code)
    if has_image(client, tag):
        return tag
    packages = _ensure_packages(client, flavor, progress)
    build(
        client,
        tag=tag,
        dockerfile=shipped("images", "node.Dockerfile"),
        base=packages,
        labels={"testbed.image": "node", "testbed.flavor": flavor},
        files={f"code/{name}": content for name, content in code.items()},
        progress=progress,
    )
    return tag


def ensure_prometheus_image(client: docker.DockerClient, progress: Progress) -> str:
    """Prometheus's own image where a registry answers, else one made of Debian's package."""
    tag = prometheus_tag()
    if has_image(client, tag) or pull(PROMETHEUS_REFERENCE, tag):
        return tag
    base = base_tag(("prometheus",), "")
    if not has_image(client, base):
        import_debian(client, ("prometheus",), base, progress)
    build(
        client,
        tag=tag,
        dockerfile=shipped("images", "prometheus.Dockerfile"),
        base=base,
        labels={"testbed.image": "prometheus"},
        progress=progress,
    )
    return tag


def ensure_grafana_image(client: docker.DockerClient) -> str:
    """Grafana's own image. Raises HostError where it is not on this engine and no registry answers."""
    if has_image(client, GRAFANA_REFERENCE) or pull(GRAFANA_REFERENCE, GRAFANA_REFERENCE):
        return GRAFANA_REFERENCE
    raise HostError(
        f"Grafana was not started: {GRAFANA_REFERENCE} is not on this engine and its registry does not answer",
        fix="`docker load` the image, or give the engine a registry that it can reach.",
    )


def list_images(client: docker.DockerClient) -> list[Image]:
    """Every image of ours on this engine, the current ones marked."""
    current = {node_tag(flavor) for flavor in ("cpu", "cuda")} | {packages_tag("cpu"), packages_tag("cuda")}
    current |= {prometheus_tag(), _node_base_tag(), base_tag(("prometheus",), "")}
    with engine_errors("listing images"):
        return _listed(client, current)


def _listed(client: docker.DockerClient, current: Set[str]) -> list[Image]:
    used = {container.attrs["ImageID"] for container in client.containers.list(all=True, sparse=True)}
    found = []
    for repository in REPOSITORIES:
        for image in client.images.list(name=repository):
            for tag in (tag for tag in image.tags if tag.startswith(f"{repository}:")):
                attributes = image.attrs
                found.append(
                    Image(tag, attributes["Size"], attributes["Created"][:19], tag in current, image.id in used)
                )
    return sorted(found, key=lambda image: (image.tag.partition(":")[0], image.created), reverse=True)


def prune_images(client: docker.DockerClient, *, everything: bool = False) -> list[Image]:
    """Remove images of ours that no container uses: the outdated ones, or ``everything``. Returns what went."""
    removed = []
    for image in list_images(client):
        if image.in_use or (image.current and not everything):
            continue
        with engine_errors(f"removing {image.tag}"):
            try:
                client.images.remove(image.tag)
            except APIError as error:
                if error.response is not None and error.response.status_code == 409:  # a newer image is built on it
                    continue
                raise
        removed.append(image)
    return removed


def _node_base_tag() -> str:
    return base_tag(NODE_PACKAGES, PYTHON_REFERENCE)


def _ensure_packages(client: docker.DockerClient, flavor: Flavor, progress: Progress) -> str:
    tag = packages_tag(flavor)
    if has_image(client, tag):
        return tag
    base = _node_base_tag()
    if not has_image(client, base) and not pull(PYTHON_REFERENCE, base):
        import_debian(client, NODE_PACKAGES, base, progress)
    wheels = cache_file("wheels", tag.partition(":")[2])
    partial = wheels.with_suffix(".partial")
    requirements, constraints = shipped("images", "requirements.txt"), shipped("constraints.txt")
    if not wheels.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        download_wheels(requirements, constraints, partial, flavor, progress)
        partial.rename(wheels)
    build(
        client,
        tag=tag,
        dockerfile=shipped("images", "packages.Dockerfile"),
        base=base,
        labels={"testbed.image": "packages", "testbed.flavor": flavor},
        files={"requirements.txt": requirements.read_bytes(), "constraints.txt": constraints.read_bytes()},
        folders={"wheels": wheels},
        progress=progress,
    )
    shutil.rmtree(wheels)  # 320 MB that only another build of the same tag would read
    return tag
