"""Models by name: ``torchvision:NAME`` (random weights) or ``package.module:factory`` (the user's own).

Weights are random but seeded: delay does not depend on their values, and every process of a lab that loads the same
name with the same seed holds the same model. What a factory may draw from without our seed (an entropy pool, a file
that changes) shows in :attr:`LoadedModel.weights_digest`, which the sides of a lab compare.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import random
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from controller.seeds import Purpose, integer
from controller.user_code import UserCodeError, guarded, import_user_module
from testbed.errors import InputError
from testbed.folders import reach
from testbed.inference.bundles import bundle, parts_of
from testbed.inference.codec import raw
from testbed.inference.opaque import patterns_of
from testbed.inference.pytrees import filled, leaves, template
from testbed.inference.signature import Signature, signature_of
from testbed.inference.tensors import why_not
from testbed.inference.torchvision_zoo import known_torchvision, torchvision_model
from testbed.inference.weight_files import Weights, apply

MODEL_FORMS = "torchvision:NAME (for example torchvision:resnet18) or package.module:factory"
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode: from one value, a task's input, to one value, its answer.

    The answer is the tensor that the module answers with, or a bundle (:mod:`testbed.inference.bundles`) where it is
    several or its size differs from task to task.
    """

    name: str
    module: nn.Module
    signature: Signature
    classes: int  # of an answer of shape (1, classes); 0 for any other
    probe: Tensor  # a task's input
    answer: Tensor  # what the module, untouched, answers to the probe
    answers: Any = field(repr=False)  # template of what the module returns
    bundled: bool  # whether the answer is a bundle
    weights_digest: str  # of all parameters and buffers, as hex
    packed: str  # name of a layer that keeps its weights in an object of the library's own; empty if none does
    opaque: tuple[str, ...] = ()  # patterns of paths of modules that are to be one node each

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of an image (C, H, W), of any other input all axes."""
        shape = tuple(self.probe.shape)
        return shape[1:] if self.signature.image else shape

    def unpacked(self, answer: Tensor) -> Any:
        """An answer as the module itself returns it. Raises MalformedBundle."""
        return filled(self.answers, parts_of(answer) if self.bundled else [answer])


def load_model(name: str, seed: int, python_path: Sequence[Path] = (), weights: Weights | None = None) -> LoadedModel:
    """Load a model with ``weights``, or with those drawn from ``seed``, in eval mode, on one thread.

    The working directory and ``python_path`` are importable for a user's factory, which runs in the first folder of
    ``python_path`` (the lab file's): relative paths start there. Torch's process-wide settings are afterwards what they
    were. Raises InputError for an unknown name, a factory that fails, a model that does not answer with tensors of
    numbers, or answers the same input in two ways.
    """
    settle()
    kind, _, rest = name.partition(":")
    if not rest or not kind:
        raise InputError("not a model name", where="model", value=name, allowed=MODEL_FORMS)
    with _seeded(integer(seed, Purpose.MODEL)) as again:
        module = torchvision_model(rest) if kind == "torchvision" else _user_model(name, kind, rest, python_path, again)
        signature = signature_of(module, name)
        probe = signature.random(seed)
        with _told(name, "the model does not go into eval mode"):
            module.eval()
        if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
            # a lazy layer learns its size, and draws its weights, when it first runs
            _run(name, module, signature, probe)
    module.requires_grad_(False)
    apply(module, weights, name)
    return _answered(name, module, signature, probe, seed)


def _answered(name: str, module: nn.Module, signature: Signature, probe: Tensor, seed: int) -> LoadedModel:
    """What a module answers with, seen on two inputs. Raises InputError."""
    answers = _run(name, module, signature, probe)
    found, again = (leaves(one) for one in (answers, _run(name, module, signature, probe)))
    if [raw(one) for one in found] != [raw(one) for one in again]:
        raise InputError(
            "the model answers differently each time it sees the same input",
            where="model",
            value=name,
            fix="Nothing may be drawn or kept in forward: give F.dropout training=self.training, and write buffers in "
            "training only.",
        )
    answer, alone = found[0], len(found) == 1
    classifies = answers is answer and answer.ndim == 2 and answer.shape[0] == 1
    if alone and not classifies:  # its size may differ
        alone = leaves(_run(name, module, signature, signature.random(seed, 1)))[0].shape == answer.shape
    return LoadedModel(
        name,
        module,
        signature,
        classes=int(answer.shape[1]) if classifies else 0,
        probe=probe,
        answer=answer if alone else bundle(found),
        answers=template(answers),
        bundled=not alone,
        weights_digest=_digest(module),
        packed=_packed(module),
        opaque=patterns_of(module, name),
    )


def answer_to(model: LoadedModel, value: Tensor) -> Tensor:
    """What the module, untouched, answers to a task's input, as one value. Raises InputError."""
    found = leaves(_run(model.name, model.module, model.signature, value))
    return bundle(found) if model.bundled else found[0]


def settle() -> None:
    """Torch as every process of a testbed has it: one thread, and attention as plain matrix products.

    A second thread would time-share the node's quota, and a pool started before a fork hangs the child's first
    convolution. Fused attention lays its results out in another way: a graph that was exported with the one does not
    run with the other, and its operations could not be counted. Where tqdm is installed, torch.fx makes a bar of it
    whenever it runs a graph, and the first bar starts a thread that watches bars.
    """
    torch.set_num_threads(1)
    torch.hub.tqdm.monitor_interval = 0  # type: ignore[attr-defined]
    torch.backends.cuda.enable_math_sdp(True)
    for fused in ("flash", "mem_efficient", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{fused}_sdp")(False)
    torch.backends.mha.set_fastpath_enabled(False)


#: What a training script sets for the whole process, by how it is read and set.
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[Callable[[], None]]:
    """Where a model is made: torch, numpy and ``random`` start from ``seed``, and again whenever what is yielded is
    called. The caller's randomness and torch's settings are afterwards what they were.

    A factory that asks for threads is not heard: once started they stay, and no process may be forked beside them.
    """

    def begin() -> None:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    python, numpy = random.getstate(), np.random.get_state()
    settings = [(get, put, get()) for get, put in _SETTINGS]
    device, set_threads = torch.get_default_device(), torch.set_num_threads
    try:
        torch.set_num_threads = lambda nthreads: None
        with torch.random.fork_rng(devices=[]):
            begin()
            yield begin
    finally:
        torch.set_num_threads = set_threads
        random.setstate(python)
        np.random.set_state(numpy)
        for get, put, value in settings:
            if get() != value:  # setting it costs: use_deterministic_algorithms imports torch's compiler, for a second
                put(value)
        if torch.get_default_device() != device:
            torch.set_default_device(None)
        settle()


def check_model(name: str, folder: Path) -> None:
    """Raise InputError unless ``name`` is a model that can be made; ``folder`` (the lab file's) is importable.

    A user's factory is called; a torchvision model is only looked up.
    """
    kind, _, rest = name.partition(":")
    if kind == "torchvision":
        known_torchvision(rest)
    else:
        load_model(name, 0, (folder,))


@contextlib.contextmanager
def _told(name: str, what: str, fix: str = "") -> Iterator[None]:
    """What a user's code raises in there, as an InputError about model ``name``."""
    try:
        with guarded():
            yield
    except UserCodeError as error:
        raise InputError(f"{what}: {error}", where="model", value=name, fix=_way_out(error) or fix) from error


def _way_out(error: UserCodeError) -> str:
    """For what goes wrong where weights come from; empty for anything else."""
    cause: BaseException | None = error.__cause__
    while cause is not None:
        kind = type(cause).__name__
        if isinstance(cause, (urllib.error.URLError, ConnectionError)) or "Connect" in kind or kind.startswith("Local"):
            return (
                "Weights cannot be fetched from here. Load them once where there is a network (they are kept in "
                "TORCH_HOME and HF_HOME, which containers see), or name a file: model: {name: ..., weights: FILE}. "
                "Random weights are right for delay."
            )
        if isinstance(cause, FileNotFoundError):
            return "Relative paths start in the lab file's folder (in the working directory for `testbed profile`)."
        cause = cause.__cause__ or cause.__context__
    return ""


def _run(name: str, module: nn.Module, signature: Signature, value: Tensor) -> Any:
    """What the module returns for a task's input. Raises InputError."""
    tensors = signature.taken(value)
    args, kwargs = signature.arguments(tensors)
    try:
        with guarded(), torch.no_grad():
            answer = module(*args, **kwargs)
    except UserCodeError as error:
        raise _unanswered(name, module, tensors, error) from error
    finally:
        settle()
    found = leaves(answer)
    if not found:
        raise InputError(
            f"the model must answer with tensors, not with a {type(answer).__name__} that holds none",
            where="model",
            value=name,
            allowed="a tensor, or tensors in tuples, lists, dicts and dataclasses",
        )
    for tensor in found:
        if tensor.is_complex() or (reason := why_not(tensor)):
            raise InputError(
                f"the model's answer cannot be read: {'complex numbers' if tensor.is_complex() else reason}",
                where="model",
                value=name,
                allowed="plain tensors of real numbers",
            )
        if tensor.device.type != "cpu":
            raise InputError(f"the model lives on {tensor.device}", where="model", value=name, allowed="the CPU")
    return answer


def _unanswered(name: str, module: nn.Module, tensors: Sequence[Tensor], error: UserCodeError) -> InputError:
    """Why a module does not run, as far as trying shows."""
    kinds = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()} - {torch.float32}
    for dtype in sorted(kinds, key=str):
        with contextlib.suppress(UserCodeError), guarded(), torch.no_grad():
            module(*(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors))
            short = str(dtype).removeprefix("torch.")
            return InputError(
                f"the model computes in {short} and does not take the image, which comes as float32 ({error})",
                where="model",
                value=name,
                fix=f"Convert it first thing in forward, as in image.to({dtype}).",
            )
    fix = ""
    if not hasattr(module, "input_shape") and not hasattr(module, "example_inputs"):
        fix = (
            "If it takes images of another size, set input_shape = (C, H, W) on the module that the factory returns; "
            "if it takes something else, example_inputs: the tensors that an application would send."
        )
    what = "what example_inputs describes," if hasattr(module, "example_inputs") else "an image"
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
    return InputError(
        f"the model does not run on {what} of shape {shapes}: {error}", where="model", value=name, fix=fix
    )


def _packed(module: nn.Module) -> str:
    return next((name or "the model" for name, part in module.named_modules() if hasattr(part, "_weight_bias")), "")


def _digest(module: nn.Module) -> str:
    """Checksum of all parameters, buffers, and what quantised layers keep."""
    found = {**dict(module.named_parameters()), **dict(module.named_buffers()), **module.state_dict()}
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for key in sorted(found):
        for tensor in tree_leaves(found[key]):
            if isinstance(tensor, Tensor) and not why_not(tensor.detach()):
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(raw(tensor.detach()))
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------ the user's own


def _user_model(
    name: str, module_name: str, factory_name: str, python_path: Sequence[Path], seed_again: Callable[[], None]
) -> nn.Module:
    # Imported by a process that has changed folders, a module of the working directory would not be found.
    for folder in (*python_path, Path.cwd()):
        reach(folder)
    with _inside(name, python_path[0] if python_path else Path()):
        factory = _factory(name, module_name, factory_name)
        seed_again()  # whether the module was imported just now or before makes no difference
        with _told(name, "the factory failed"):
            module = factory()
    module = getattr(module, "_orig_mod", module)  # torch.compile's wrapper: what it wraps has the same weights
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(
            "the factory returns a TorchScript program, whose graph cannot be cut",
            where="model",
            value=name,
            allowed="a plain torch.nn.Module",
            fix="Return the module that it was scripted or traced from; its state_dict fits: "
            "module.load_state_dict(torch.jit.load(FILE).state_dict()).",
        )
    if not isinstance(module, nn.Module):
        raise InputError(
            f"the factory must return a torch.nn.Module, not {type(module).__name__}", where="model", value=name
        )
    return module


@contextlib.contextmanager
def _inside(name: str, folder: Path) -> Iterator[None]:
    before = Path.cwd()
    try:
        os.chdir(folder)
    except FileNotFoundError:
        pass  # this project's own folder, which is not in its image
    except OSError as error:
        raise InputError(
            f"the lab file's folder cannot be entered: {error.strerror}",
            where="model",
            value=name,
            fix=f"User {os.getuid()} (containers have their own) has to be let in: chmod o+rx {folder}.",
        ) from error
    try:
        yield
    finally:
        os.chdir(before)


def _factory(name: str, module_name: str, factory_name: str) -> Callable[[], Any]:
    try:
        user_module = import_user_module(module_name)
    except UserCodeError as error:
        raise InputError(
            f"the model's module cannot be imported: {error}",
            where="model",
            value=name,
            allowed=MODEL_FORMS,
            fix=_way_out(error),
        ) from error
    with _told(name, "the factory cannot be read from its module"):
        factory: Callable[[], Any] | None = getattr(user_module, factory_name, None)
    if callable(factory):
        return factory
    names = [key for key, value in vars(user_module).items() if callable(value) and not key.startswith("_")]
    close = difflib.get_close_matches(factory_name, names, n=5, cutoff=0.3)
    raise InputError(
        f"module {module_name} has no callable {factory_name!r}",
        where="model",
        value=name,
        allowed=", ".join(close or sorted(names)),
    )
