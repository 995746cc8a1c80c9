"""``testbed images build|list|prune``."""

from __future__ import annotations

import dataclasses
import json

import click

from testbed.runtime.docker import images
from testbed.runtime.docker.client import connect


@click.group("images")
def command() -> None:
    """Container images of the docker runtime."""


def _progress(line: str) -> None:
    click.echo(line, err=True)


@command.command("build")
@click.option("--gpu", is_flag=True, help="Also build the CUDA variant of the node image.")
@click.option("--json", "as_json", is_flag=True, help="Print the tags as JSON.")
def build(gpu: bool, as_json: bool) -> None:
    """Build what is missing: the node image and Prometheus. `up` does the same on its own."""
    client = connect()
    tags = {"node": images.ensure_node_image(client, "cpu", _progress)}
    if gpu:
        tags["node-cuda"] = images.ensure_node_image(client, "cuda", _progress)
    tags["prometheus"] = images.ensure_prometheus_image(client, _progress)
    click.echo(json.dumps(tags, indent=1) if as_json else "\n".join(tags.values()))


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """Images of ours on this engine, and which of them a lab would use."""
    found = images.list_images(connect())
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(image) for image in found], indent=1))
        return
    for image in found:
        marks = ", ".join(mark for mark, is_set in (("current", image.current), ("in use", image.in_use)) if is_set)
        click.echo(f"{image.tag:42} {image.size_bytes / 1e6:7.0f} MB  {image.created}  {marks}")


@command.command("prune")
@click.option("--all", "everything", is_flag=True, help="Also the current ones.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prune(everything: bool, as_json: bool) -> None:
    """Remove images of ours that are outdated and that no container uses."""
    removed = [image.tag for image in images.prune_images(connect(), everything=everything)]
    click.echo(json.dumps({"removed": removed}) if as_json else "\n".join(removed) or "nothing to remove")
