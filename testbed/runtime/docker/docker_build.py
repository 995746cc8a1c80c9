"""How an image comes into being: a base, wheels from the host, a build context. No policy on what is needed."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import docker
from docker.errors import BuildError, ImageNotFound

from testbed.errors import HostError, TestbedError
from testbed.installed import CODE, shipped
from testbed.runtime.docker.client import connect, engine_errors
from testbed.runtime.host import executables

# What it warns of is raised, too.
warnings.filterwarnings("ignore", module="docker.credentials")

Flavor = Literal["cpu", "cuda"]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """What a base image is made of. Wheels are downloaded for its Python, whatever Python the host runs."""

    suite: str  # as mmdebstrap names the release
    components: str
    python: str  # of that release
    debian: str  # the release in the name of Python's own image


#: By the host's release: its package sources and keys are those that mmdebstrap has at hand.
BASES = {
    "bookworm": Base("bookworm", "main", "3.11", "bookworm"),
    "trixie": Base("trixie", "main", "3.13", "trixie"),
    "noble": Base("noble", "main,universe", "3.12", "bookworm"),
}


def base_for(codename: str) -> Base:
    """The base on a host of this release; Debian 12's on one that we do not know."""
    return BASES.get(codename, BASES["bookworm"])


def host_codename() -> str:
    """``bookworm``, ``noble``, ...; empty where the host does not say."""
    try:
        return platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    except OSError:
        return ""


BASE = base_for(host_codename())
REGISTRY_TIMEOUT_SECONDS = 4
#: PyTorch's own indexes: PyPI's Linux wheels of torch pull several GB of CUDA, the ``+cpu`` ones only exist there.
TORCH_INDEX: dict[Flavor, str] = {
    "cpu": "https://download.pytorch.org/whl/cpu",
    "cuda": "https://download.pytorch.org/whl/cu130",
}


def content_hash(parts: Mapping[str, bytes]) -> str:
    """Twelve hex digits over names and contents, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(parts):
        digest.update(f"{name}\0{len(parts[name])}\0".encode())
        digest.update(parts[name])
    return digest.hexdigest()[:12]


def has_image(client: docker.DockerClient, tag: str) -> bool:
    with engine_errors(f"looking for {tag}"):
        try:
            client.images.get(tag)
        except ImageNotFound:
            return False
    return True


def pull(reference: str, tag: str) -> bool:
    """Pull ``reference`` and name it ``tag``. False where its registry does not answer within a few seconds.

    Raises HostError where the engine's credentials helper fails.
    """
    probe = connect(REGISTRY_TIMEOUT_SECONDS)
    client = connect(timeout_seconds=900)
    try:
        with engine_errors(f"pulling {reference}"):
            probe.images.get_registry_data(reference)
            client.images.pull(reference).tag(tag)
    except HostError:
        raise
    except TestbedError:
        return False
    finally:
        probe.close()
        client.close()
    return True


def import_debian(client: docker.DockerClient, packages: tuple[str, ...], tag: str, progress: Progress) -> None:
    """Make a small root of :data:`BASE`'s release with ``packages`` and import it as ``tag``.

    Raises HostError without mmdebstrap.
    """
    [program] = executables.require(
        f"no registry answers for a base image, and making {tag} here",
        "mmdebstrap",
        fix="give the engine a registry that it can reach",
    )
    progress(f"base {tag}: {BASE.suite} with {', '.join(packages)} (mmdebstrap)")
    with tempfile.TemporaryDirectory(prefix="testbed-base-") as folder:
        root = Path(folder) / "root.tar"
        command = [program, "--variant=essential", f"--include={','.join(packages)}", f"--components={BASE.components}"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{unread}/*" for unread in ("man", "doc", "locale", "info")]
        _run([*command, "--quiet", BASE.suite, str(root)], f"mmdebstrap could not make {tag}")
        name, _, version = tag.partition(":")
        with engine_errors(f"importing {tag}"):
            client.api.import_image_from_file(str(root), repository=name, tag=version)


def download_wheels(requirements: Path, constraints: Path, target: Path, flavor: Flavor, progress: Progress) -> None:
    """Fill ``target`` with the wheels of ``requirements`` and pip's own, for the base's Python.

    Raises HostError when no index has them, or has torch only for CPU and ``flavor`` is "cuda".
    """
    progress(f"wheels: downloading for Python {BASE.python} ({flavor})")
    target.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--python-version", BASE.python, "--dest", str(target)]
    command += ["--constraint", str(constraints), "--requirement", str(requirements), "pip"]
    if _answers(TORCH_INDEX[flavor]):
        command += ["--extra-index-url", TORCH_INDEX[flavor]]
    _run(command, "pip could not download the wheels of the node image")
    if flavor == "cuda" and not any(target.glob("nvidia_c*.whl")):
        raise HostError(
            "The CUDA image cannot be built",
            missing=f"an index with CUDA wheels of torch ({TORCH_INDEX['cuda']})",
            fix="Use `edge: {gpu: off}`, or build where that index answers.",
        )


def code_files() -> dict[str, bytes]:
    """The project's own code as it goes into the node image, with the entry points that an installation would have.

    Without the metadata ``importlib.metadata`` finds no registered policy inside a node.
    """
    files = {
        str(path.relative_to(CODE)): path.read_bytes()
        for package in ("testbed", "controller")
        for path in sorted((CODE / package).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.is_relative_to(CODE / "testbed" / "shipped")
    }
    project = tomllib.loads(shipped("pyproject.toml").read_text())["project"]
    entry_points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project.get("entry-points", {}).items()
    )
    folder = f"{re.sub('[-.]+', '_', project['name'])}-{project['version']}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    return files | {f"{folder}/METADATA": metadata.encode(), f"{folder}/entry_points.txt": entry_points.encode()}


def build(
    client: docker.DockerClient,
    *,
    tag: str,
    dockerfile: Path,
    base: str,
    labels: Mapping[str, str],
    progress: Progress,
    files: Mapping[str, bytes] | None = None,
    folders: Mapping[str, Path] | None = None,
) -> None:
    """Build ``tag`` from ``dockerfile`` with BASE=``base`` and a context of ``files`` and ``folders``.

    Raises TestbedError with the end of the build's output when a step fails.
    """
    tail: list[str] = []
    with tempfile.TemporaryFile(prefix="testbed-context-") as context:
        _write_context(context, dockerfile, files or {}, folders or {})
        context.seek(0)
        with engine_errors(f"building {tag}"):
            stream = client.api.build(
                fileobj=context,
                custom_context=True,
                tag=tag,
                buildargs={"BASE": base},
                labels=dict(labels),
                network_mode="none",
                rm=True,
                forcerm=True,
                decode=True,
            )
            for line in _build_lines(stream, tag, tail):
                progress(f"{tag}: {line}")
    # The stage that unpacked the wheels is larger than the result and nothing refers to it any more.
    client.images.prune(filters={"dangling": True, "label": ["testbed.image=scratch"]})


def _build_lines(stream: Iterator[dict[str, Any]], tag: str, tail: list[str]) -> Iterator[str]:
    try:
        for entry in stream:
            if "error" in entry:
                raise TestbedError(f"Building {tag} failed: {entry['error'].strip()}\n" + "\n".join(tail[-15:]))
            text = entry.get("stream", "").strip()
            if text:
                tail.append(text)
            if text.startswith("Step "):
                yield text
    except BuildError as error:
        raise TestbedError(f"Building {tag} failed: {error}") from error


def _write_context(context: Any, dockerfile: Path, files: Mapping[str, bytes], folders: Mapping[str, Path]) -> None:
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, content in {"Dockerfile": dockerfile.read_bytes(), **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
        for name, folder in folders.items():
            archive.add(folder, arcname=name)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=REGISTRY_TIMEOUT_SECONDS):
            return True
    except OSError:
        return False


def _run(command: list[str], failure: str) -> None:
    environment = {**os.environ, "PATH": executables.search_path()}  # mmdebstrap runs chroot and dpkg
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TestbedError(f"{failure}: {' '.join(command[:3])} ... said: {done.stderr.strip()[-800:]}")
