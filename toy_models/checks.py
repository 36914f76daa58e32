"""What training and testing ask of their arguments before they begin, and of parameters on the way."""

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from minisae.backend import Array, namespace, resolve, to_host
from minisae.conventions import check_number
from minisae.errors import InputError
from minisae.schedules import DECAYS
from minisae.streams import generator
from minisae.train import Diverged
from toy_models import models
from toy_models.data import Data, real
from toy_models.models import Config, Params


class Settings(NamedTuple):
    """How to train; see :func:`toy_models.train.train`."""

    steps: int
    batch_size: int
    lr: float
    decay: str
    warmup: int
    weight_decay: float
    hidden_l1: float
    target: str
    seed: int


def check_settings(cfg: Config, data: Data, steps: int, batch_size: int, lr: float, target: str) -> None:
    """Refuse settings that make no sense, in one line."""
    check_number("steps", steps, least=0, whole=True)
    check_number("batch_size", batch_size, least=1, whole=True)
    check_number("lr", lr, least=0)
    if lr == 0:
        raise InputError(f"lr: expected a number above 0, got {lr!r}")
    if data.n_feat != cfg.n_feat:
        raise InputError(f"n_feat: the data has {data.n_feat} features, the model {cfg.n_feat}")
    if target not in models.TARGETS:
        raise InputError(f"target: expected one of {', '.join(models.TARGETS)}, got {target!r}")
    width = models.TARGETS[target](np.zeros((1, cfg.n_feat))).shape[1]
    if width != models.n_out(cfg):
        raise InputError(f"n_out: target {target!r} has {width} outputs, the model {models.n_out(cfg)}")


def check_rates(settings: Settings, dtype: str) -> None:
    """Refuse rates that are negative, and names that nobody knows."""
    for name in ("warmup", "weight_decay", "hidden_l1"):
        check_number(name, getattr(settings, name), least=0)
    for name, got, known in (("decay", settings.decay, DECAYS), ("dtype", dtype, ("float32", "float64"))):
        if got not in known:
            raise InputError(f"{name}: expected one of {', '.join(known)}, got {got!r}")


def check_snapshots(snapshots: Iterable[int], steps: int) -> list[int]:
    """Return the steps at which to keep parameters, sorted, each once."""
    kept = list(snapshots)
    for step in kept:
        check_number("snapshots", step, least=0, most=steps, whole=True)
    return sorted({int(step) for step in kept})


def array_module(backend: str) -> str:
    """Return the name of a backend, ``"auto"`` decided; any module of arrays that is loaded will do as well."""
    return backend if hasattr(sys.modules.get(backend), "ndarray") else resolve(backend)


def refuse_divergence(arrays: Iterable[Array], *, first: int, last: int) -> None:
    """Raise :class:`minisae.train.Diverged` if parameters or Adam's moments are not finite after step ``last``.

    They were after step ``first``, the check before. What is not finite stays so, so that no step between is missed.
    """
    sound: Any = True
    for a in arrays:
        sound = sound & namespace(a).isfinite(a).all()
    if sound:  # the one number that is read off a device
        return
    error = Diverged(last)
    error.args = (
        f"training diverged between steps {first} and {last}: a parameter or a moment of Adam's is not finite; "
        "try a lower lr",
    )
    raise error


def check_importance(importance: Any, width: int) -> np.ndarray | None:
    """Return importances as ``(1 or i, n_out)``, checked."""
    if importance is None:
        return None
    weights = np.atleast_2d(real("importance", importance).astype(np.float64))  # (i, n_out)
    if weights.ndim != 2 or weights.shape[1] != width:
        raise InputError(f"importance: expected (n_out,) or (instances, n_out), n_out {width}, got {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any(axis=1).all():
        raise InputError("importance: expected numbers that are not negative, and not all 0")
    return weights


def count_instances(instances: int | None, data: Data, weights: np.ndarray | None, params: Params | None) -> int:
    """Return the number of instances on which all that describe some agree."""
    if instances is not None:
        check_number("instances", instances, least=1, whole=True)
    told = {"data": data.instances, "importance": 1 if weights is None else len(weights)}
    told |= {} if params is None else {"params": len(next(iter(params.values())))}
    told |= {} if instances is None else {"instances": instances}
    for name, value in told.items():
        if value < 1 or (value != 1 and value != max(told.values())):
            raise InputError(f"{name}: describes {value} instances, others {max(told.values())}")
    if instances is not None and instances != max(told.values()):
        raise InputError(f"instances: asked for {instances}, but the data, importance or params describe more")
    return max(told.values())


def start_params(cfg: Config, instances: int, given: Params | None, seed: int, dtype: Any) -> Params:
    """Return the parameters to start from ``(i, …)``, on the host: those given, or each instance's own."""
    if given is None:
        drawn = [models.init(cfg, generator(seed, "toy_init", i), dtype=dtype) for i in range(instances)]
        return {name: np.stack([one[name] for one in drawn]) for name in models.sizes(cfg)}
    if len(given["b"]) != instances:
        raise InputError(f"params: expected {instances} instances, got {len(given['b'])}")
    return given


def check_params(cfg: Config, params: Params, dtype: Any) -> Params:
    """Return parameters ``(i, …)`` on the host, a copy, checked."""
    shapes = models.sizes(cfg)
    given = {name: real("params", to_host(p) if hasattr(p, "dtype") else p).astype(dtype) for name, p in params.items()}
    if {name: p.shape[1:] for name, p in given.items()} != shapes:
        got = {name: p.shape for name, p in given.items()}
        raise InputError(f"params: expected (instances, …) of {shapes}, got {got}")
    if len({len(p) for p in given.values()}) > 1:
        raise InputError(f"params: expected one number of instances, got {[len(p) for p in given.values()]}")
    if not all(np.isfinite(p).all() for p in given.values()):
        raise InputError("params: expected finite numbers, got NaN or infinity")
    return given
