"""Trained autoencoders and the files of a run.

A run's folder holds ``params.safetensors``, ``optimizer.safetensors`` and ``run.json``. The three belong to one step
at every moment: new array files are written beside, then ``run.json`` is renamed into place, which is the commit, then
the array files are. A reader who finds arrays of another step than ``run.json`` says takes the ones beside.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from minisae.backend import Array, backend_of, namespace, resolve, to_device, to_host
from minisae.cache.arrays import bad_rows, nonfinite_message, to_floats
from minisae.errors import InputError
from minisae.interop import formats, saelens
from minisae.interop.files import read_json, rename, write_beside
from minisae.interop.folding import normalise_rows
from minisae.ops import Code, SparseCode, dense
from minisae.ops import sparse as to_sparse
from minisae.sae import reconstruct, variant
from minisae.sae import units as units_of

FORMAT = 1
RUN = "run.json"
ARRAYS = ("params.safetensors", "optimizer.safetensors")


class SAE(NamedTuple):
    """A trained sparse autoencoder."""

    variant: str
    """Name of the variant."""
    cfg: Any
    """Its configuration."""
    params: dict[str, Array]
    """Its parameters, on one backend."""
    metadata: dict[str, Any]
    """Where it comes from: model, hook, cache, training; under ``notes`` what was done to read it."""
    normalise: str = "none"
    """What is done to each row before encoding and undone after decoding: ``layer_norm`` (OpenAI, SAELens) or
    ``constant_norm_rescale`` (SAELens); see :func:`minisae.interop.folding.normalise_rows`. Of a transcoder, whose
    output are other rows, nothing is undone, and a skip connection takes the row as it is, as in SAELens."""

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        own = "".join(f", {name}={getattr(self.cfg, name):g}" for name in ("k", "l1") if hasattr(self.cfg, name))
        return f"SAE({self.variant}, {self.cfg.d_in} → {self.cfg.d_sae}{own})"

    def encode(self, x: Array, *, sparse: bool = False) -> Code:
        """Return the code of rows ``x (n, d_in)``: an array ``(n, d_sae)``, or with ``sparse`` a ``SparseCode``.

        ``x``, an array of any framework, goes to the parameters' backend and dtype. A ``SparseCode`` is on the host.

        Raises
        ------
        InputError
            If ``x`` is not a matrix of width ``d_in``, or (on the host) has rows with NaN or infinity.
        """
        x = self._checked(x)  # (n, d_in)
        return self._encoded(x, sparse=sparse)

    def decode(self, f: Code, x: Array | None = None) -> Array:
        """Return the reconstruction ``(n, d_in)`` of a code ``(n, d_sae)``; of a transcoder ``(n, d_out)``.

        ``x (n, d_in)``, the rows that were encoded: with them what a skip connection has of them is added and
        ``normalise`` undone. :meth:`reconstruct` does both steps.

        Raises
        ------
        InputError
            If the code is not a matrix of width ``d_sae``, ``x`` not one of as many rows and width ``d_in``, or (on
            the host) one of them not of floats or not finite.
        """
        f = self._checked_code(f)  # (n, d_sae)
        if x is None:
            return variant(self.variant).decode(self.params, f)
        x = self._checked(x)  # (n, d_in)
        if len(x) != f.shape[0]:
            raise InputError(f"x: expected the {f.shape[0]} rows of the code, got {len(x)}")
        return self._decoded(f, x)

    def reconstruct(self, x: Array) -> Array:
        """Return the reconstruction ``(n, d_in)`` of rows ``x (n, d_in)``: encoded, decoded, ``normalise`` undone.

        Raises
        ------
        InputError
            As :meth:`encode` does.
        """
        x = self._checked(x)  # (n, d_in)
        f = self._encoded(x, sparse=backend_of(x) == "numpy")  # a code (n, d_sae); a sparse one is on the host
        return self._decoded(f, x)

    def _checked(self, x: Array) -> Array:
        """Return rows ``x (n, d_in)`` on the parameters' backend and in their dtype, or refuse them."""
        if not hasattr(x, "get"):  # not on a device: an array of any framework
            x = to_floats(x, name="x")
            if x.ndim == 2 and bad_rows(x).any():
                raise InputError(nonfinite_message("x", x, bad_rows(x), np.arange(len(x))))
        x = to_device(x, backend_of(self.params["W_dec"]))
        if x.ndim != 2 or x.shape[1] != self.cfg.d_in:
            raise InputError(f"x: expected rows of width d_in = {self.cfg.d_in}, got shape {tuple(x.shape)}")
        return x.astype(self.params["W_dec"].dtype, copy=False)

    def _checked_code(self, f: Code) -> Code:
        """Return a code ``(n, d_sae)``, a dense one on the parameters' backend, or refuse it."""
        shape = tuple(getattr(f, "shape", ()))
        if len(shape) != 2 or shape[1] != self.cfg.d_sae:
            raise InputError(f"f: expected a code of width d_sae = {self.cfg.d_sae}, got {shape or type(f).__name__}")
        if hasattr(f, "get"):  # on a device
            return to_device(f, backend_of(self.params["W_dec"]))
        values = to_floats(f.values if isinstance(f, SparseCode) else f, name="f")
        bad = bad_rows(values.reshape(-1, 1) if isinstance(f, SparseCode) else values)
        if bad.any():
            what = "entries" if isinstance(f, SparseCode) else "rows"
            raise InputError(f"f: expected finite {what}, got {int(bad.sum())} of {len(bad)} with NaN or infinity")
        return f if isinstance(f, SparseCode) else to_device(values, backend_of(self.params["W_dec"]))

    def _encoded(self, x: Array, *, sparse: bool) -> Code:
        """Return the code of rows that were checked."""
        seen = x if self.normalise == "none" else normalise_rows(self.normalise, x, namespace(x))[0]  # (n, d_in)
        f = variant(self.variant).encode(self.params, seen, self.cfg)
        return to_sparse(f if isinstance(f, SparseCode) else to_host(f)) if sparse else dense(f)

    def _decoded(self, f: Code, x: Array) -> Array:
        """Return the reconstruction from a code and its rows ``x (n, d_in)``, both checked."""
        module = variant(self.variant)
        if self.normalise == "none" or hasattr(self.cfg, "d_out"):  # a transcoder's output are not these rows
            return reconstruct(module, self.params, f, x)
        seen, scale, shift = normalise_rows(self.normalise, x, namespace(x))
        return reconstruct(module, self.params, f, seen) * scale + shift

    def save(self, path: str | Path) -> None:
        """Write a SAELens 6 folder, which :func:`load` and SAELens read.

        Raises
        ------
        InputError
            If the path is a file, or a folder that holds anything but an autoencoder saved before.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: expected a folder to write to, found a file")
        ours = {name + end for name in (saelens.CONFIG, saelens.WEIGHTS) for end in ("", ".new")}
        held = sorted({p.name for p in path.iterdir()} - ours) if path.exists() else []
        if held:
            raise InputError(f"{path}: expected a new folder or one that save wrote, it holds {', '.join(held[:3])}")
        saelens.write(path, *self)

    def to(self, backend: str) -> "SAE":
        """Return the autoencoder on ``"numpy"``, ``"cupy"`` or ``"auto"``."""
        name = resolve(backend)
        return self._replace(params={key: to_device(p, name) for key, p in self.params.items()})


def load(path: str | Path, *, format: str | None = None, options: Mapping[str, Any] | None = None) -> SAE:
    """Read a trained autoencoder: the folder of a run, or a checkpoint of any format of ``interop.formats.FORMATS``.

    What reading did to it (transposing is not worth a word, folding is) stands in ``metadata["notes"]``.

    Parameters
    ----------
    path : a folder or a file
    format : name of its format; ``None`` recognises it by its content
    options : what the files do not say (``k`` of a TopK in a bare state dict); formats that need some name them

    Raises
    ------
    InputError
        If there is none, or it is damaged: one line that names the file.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: expected the folder of a run or of a saved autoencoder, found none")
    if not (path / saelens.CONFIG).exists() and (path / RUN).exists():
        raise InputError(f"{path}: this run has not ended yet; finish it with: minisae train … --out {path} --resume")
    return SAE(*formats.read(path, format=format, options=options or {}))


def fold_input_scale(name: str, cfg: Any, params: Mapping[str, Array], scale: float) -> tuple[Any, dict[str, Array]]:
    """Return configuration and parameters for raw activations, from those for activations multiplied by ``scale``.

    What is in the units of the activations (biases, a threshold, a penalty λ) is named in the variant's ``UNITS``.
    Decoder rows keep their norm; codes come out in raw units, ``1/scale`` of what they were in training.
    """
    units = units_of(variant(name), cfg)
    options = {key: getattr(cfg, key) / scale**power for key, power in units.items() if key in cfg._fields}
    arrays = {key: p / scale ** units[key] if key in units else p.copy(order="K") for key, p in params.items()}
    return cfg._replace(**options), arrays


def write_run(path: Path, info: Mapping[str, Any], *arrays: Mapping[str, np.ndarray]) -> None:
    """Commit a checkpoint: ``info`` (with its ``step``), parameters, and optimiser arrays."""
    path.mkdir(parents=True, exist_ok=True)
    stamp = {"step": str(info["step"])}
    files = [safetensors.numpy.save({k: np.ascontiguousarray(a) for k, a in group.items()}, stamp) for group in arrays]
    beside = [write_beside(path / name, data) for name, data in zip(ARRAYS, files, strict=True)]
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in zip(ARRAYS, files, strict=True)}
    text = json.dumps({"format": FORMAT, **info, "sha256": hashes}, indent=1, sort_keys=True) + "\n"
    rename(write_beside(path / RUN, text.encode()), path / RUN)
    for new, name in zip(beside, ARRAYS, strict=True):
        rename(new, path / name)


def read_run(path: Path) -> tuple[dict[str, Any], list[dict[str, np.ndarray]]]:
    """Read the last checkpoint of a run: ``info`` and its two groups of arrays. Ends a commit that was interrupted.

    Raises
    ------
    InputError
        If the folder holds no run, one of another format, or arrays of another step or with a damaged byte.
    """
    info = read_json(path / RUN)
    if info.get("format") != FORMAT:
        raise InputError(f"{path / RUN}: expected format {FORMAT}, got {info.get('format')!r}")
    groups = []
    for name in ARRAYS:
        file = _of_step(path / name, str(info.get("step")))
        if hashlib.sha256(file.read_bytes()).hexdigest() != info.get("sha256", {}).get(name):
            raise InputError(f"{file}: damaged, its checksum is not the one in {RUN}")
        groups.append(saelens.read_arrays(file))
    return info, groups


def _of_step(path: Path, step: str) -> Path:
    beside = path.with_name(path.name + ".new")
    if beside.exists() and _stamp(beside) == step:
        rename(beside, path)
    if not path.exists() or _stamp(path) != step:
        raise InputError(f"{path}: expected the arrays of step {step}, which {RUN} names; found none")
    return path


def _stamp(path: Path) -> str | None:
    try:
        with safetensors.safe_open(path, "np") as file:
            return (file.metadata() or {}).get("step")
    except (OSError, safetensors.SafetensorError):
        return None
