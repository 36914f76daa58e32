"""What the adapters of torch libraries share: arrays in, gradients out."""

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch

Arrays = dict[str, np.ndarray]
Places = Mapping[str, tuple[Any, bool]]
"""Where a parameter of ours is in their module, and whether it lies transposed there."""


def without_init(package: str, *, unless: str) -> None:
    """Let a package's modules be imported without what its ``__init__`` imports, where ``unless`` is not installed."""
    spec = find_spec(package) if package not in sys.modules and find_spec(unless) is None else None
    if spec is not None and spec.submodule_search_locations:
        bare = ModuleType(package)
        bare.__spec__ = spec
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules[package] = bare


def tensor(a: np.ndarray) -> Any:
    """Return a tensor of an array's numbers and dtype, of its own."""
    return torch.tensor(np.ascontiguousarray(a))


def fill(places: Places, params: Arrays) -> None:
    """Put parameters where they belong, in their dtype."""
    for name, (parameter, transposed) in places.items():
        parameter.data = tensor(params[name].T if transposed else params[name])


def numbers(outputs: Mapping[str, Any]) -> Arrays:
    """Return tensors as arrays."""
    return {name: value.detach().numpy() for name, value in outputs.items()}


def taken(places: Places) -> Arrays:
    """Return the parameters as they stand."""
    return numbers({name: parameter.T if transposed else parameter for name, (parameter, transposed) in places.items()})


def probed(outputs: Mapping[str, Any], slopes: Mapping[str, np.ndarray]) -> Any:
    """Return ``Σ output · slope``, or say that one of the outputs is not offered."""
    if not slopes.keys() <= outputs.keys():
        raise NotImplementedError
    return sum((outputs[name] * tensor(slope)).sum() for name, slope in slopes.items())


def gradients(places: Places, value: Any, x: Any = None) -> Arrays:
    """Return the derivative of ``value`` with respect to every parameter, and to ``x`` if given; 0 where none is."""
    found = {**places, **({} if x is None else {"x": (x, False)})}
    leaves = [leaf for leaf, _ in found.values()]
    slopes = torch.autograd.grad(value, leaves, allow_unused=True)
    whole = [torch.zeros_like(leaf) if d is None else d for leaf, d in zip(leaves, slopes, strict=True)]
    return numbers({name: d.T if t else d for (name, (_, t)), d in zip(found.items(), whole, strict=True)})
