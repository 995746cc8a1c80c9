"""Which file of weights a lab's model has, as its lab file says; ``default`` is what the model's library publishes."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from pathlib import Path

from testbed.errors import InputError, first_line, os_error_text
from testbed.folders import cache_file
from testbed.inference.weight_files import DEFAULT, RANDOM, RANDOM_WEIGHTS, Weights, sha256_of


def weights_of(model: str, named: str, folder: Path) -> Weights:
    """What a lab file names: ``random``, ``default`` or an absolute path. ``folder``: the lab file's.

    ``default`` is fetched into the user's cache if it is not there. Raises InputError.
    """
    if named == RANDOM:
        return RANDOM_WEIGHTS
    path = _default_file(model, folder) if named == DEFAULT else Path(named)
    try:
        return Weights(str(path), sha256_of(path))
    except OSError as error:
        raise InputError(f"the weights cannot be read ({os_error_text(error)})", where="model.weights") from None


def _default_file(model: str, folder: Path) -> Path:
    """A file with the weights that a model's library publishes: torchvision's own, in torch's cache; or what timm gives
    a module that a factory made with it, written once into this host's cache."""
    kind, _, name = model.partition(":")
    if kind == "torchvision":
        return _torchvision_file(name)
    kept = cache_file("weights", f"{model.replace(':', '-')}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}.pt")
    return kept if kept.is_file() else _timm_file(model, folder, kept)


def _torchvision_file(name: str) -> Path:
    import torch

    from testbed.inference.torchvision_zoo import known_torchvision

    found = known_torchvision(name).get_model_weights(name).DEFAULT
    path: Path = Path(torch.hub.get_dir()) / "checkpoints" / found.url.rpartition("/")[2]
    if not path.is_file():
        try:
            with contextlib.redirect_stdout(sys.stderr):  # it says there what it fetches
                found.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise _no_network(f"torchvision:{name}", str(path), error) from None
    return path


def _timm_file(model: str, folder: Path, kept: Path) -> Path:
    import torch

    from testbed.inference.models import load_model

    module = load_model(model, 0, (folder,)).module
    if not getattr(module, "pretrained_cfg", None):
        raise InputError(
            "no library publishes weights of this model",
            where="model.weights",
            value=f"{model}: {DEFAULT}",
            allowed=f"{RANDOM}, a path, and {DEFAULT} for torchvision's models and for modules of timm.create_model",
            fix="Name a file, or have the factory load its own.",
        )
    from timm.models import load_pretrained

    try:
        load_pretrained(module)
    except Exception as error:  # noqa: BLE001 - of the hub's client, which has its own for each way to fail
        raise _no_network(model, "HF_HOME", error) from None
    kept.parent.mkdir(parents=True, exist_ok=True)
    torch.save(module.state_dict(), kept)
    return kept


def _no_network(model: str, place: str, error: Exception) -> InputError:
    return InputError(
        f"the published weights are not on this host and cannot be fetched: {first_line(error)}",
        where="model.weights",
        value=f"{model}: {DEFAULT}",
        allowed=f"a file in the user's cache ({place})",
        fix="Fetch them once where there is a network and copy them there, name a file, or take weights: random, which "
        "are right for delay.",
    )
