"""What the readers and writers of all formats share: names and orientation, and checks of everything a file says.

A format says where our parameters stand in its files with a :data:`Layout`: ``{"W_enc": "encoder.weight.T"}`` reads the
array ``encoder.weight`` transposed. Orientation here is W_enc (d_in, d_sae) and W_dec (d_sae, d_in).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from minisae.errors import InputError
from minisae.sae import VARIANTS, variant

Layout = Mapping[str, str]
"""What a format calls each parameter; ``.T`` at the end where it stands transposed."""
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
"""What may be done to each row before encoding; how it is undone, see :class:`minisae.checkpoint.SAE`."""


class Stored(NamedTuple):
    """An autoencoder as files hold it, in our terms; :class:`minisae.checkpoint.SAE` has the same fields."""

    variant: str
    cfg: Any
    params: dict[str, Any]
    metadata: dict[str, Any]
    normalise: str = "none"


def config_from(name: str, options: Mapping[str, Any], source: object) -> Any:
    """Return a variant's configuration from named options, unknown ones refused.

    Raises
    ------
    InputError
        Naming ``source`` and the option.
    """
    module = variant(name)
    unknown = sorted(set(options) - set(module.Config._fields))
    if unknown:
        known = ", ".join(module.Config._fields)
        what = ", ".join(unknown)[:160]
        shown = what if what.isprintable() else repr(what)
        raise InputError(f"{source}: {name} has no option {shown}; expected some of {known}")
    missing = sorted(set(module.Config._fields) - set(module.Config._field_defaults) - set(options))
    if missing:
        raise InputError(f"{source}: {', '.join(missing)} missing")
    cfg = module.Config(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})
    module.check_config(cfg)
    return cfg


def config_of_file(name: object, options: Mapping[str, Any], source: object) -> Any:
    """Return a configuration out of a file: whatever stands there, what is wrong is one line that names the file."""
    try:
        return config_from(str(name), options, source)
    except InputError as error:
        line = str(error)[:400]
        raise InputError(line if line.startswith(f"{source}: ") else f"{source}: {line}") from None
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        what = " ".join(str(error).split())[:160]
        raise InputError(f"{source}: expected options of {name}, got others ({what})") from None


def adopted(
    path: Path,
    name: str,
    options: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    metadata: Mapping[str, Any],
    normalise: str = "none",
) -> Stored:
    """Return an autoencoder of another library, checked; a size that ``options`` leaves out is that of ``W_enc``.

    ``decoder`` is ``"free"`` where the variant has the switch: reading changes no norm, and training on would.
    """
    fields = VARIANTS[name].Config._fields
    shape = arrays["W_enc"].shape if "W_enc" in arrays else arrays["W_dec"].shape[::-1]
    if len(shape) != 2:
        raise InputError(f"{path}: expected a matrix of encoder weights, got shape {shape}")
    base = {"d_in": shape[0], "d_sae": shape[1], "decoder": "free"}
    cfg = config_of_file(name, {key: value for key, value in base.items() if key in fields} | dict(options), path)
    return Stored(name, cfg, checked(arrays, name, cfg, path), dict(metadata), normalise)


def checked(arrays: Mapping[str, Any], name: str, cfg: Any, source: Path) -> dict[str, np.ndarray]:
    """Return copies of the parameters of a variant, in one dtype of at least float32, the encoder feature-major.

    Raises
    ------
    InputError
        If an array is missing, has another shape than ``SHAPES`` and the configuration say, or is not finite.
    """
    shapes = {key: tuple(getattr(cfg, letter) for letter in letters) for key, letters in VARIANTS[name].SHAPES.items()}
    for key, shape in shapes.items():
        if not isinstance(arrays.get(key), np.ndarray):
            have = _names(arrays)
            raise InputError(f"{source}: expected an array {key} {shape}, found {have}")
        a = arrays[key]
        if a.shape != shape:
            letters = ", ".join(VARIANTS[name].SHAPES[key])
            raise InputError(f"{source}: {key} is {a.shape}; expected ({letters}) = {shape}")
        if not is_float(a):
            raise InputError(f"{source}: {key} is {a.dtype}; expected a float type")
    # One dtype for all; half precision is for files, not for products.
    dtype = np.result_type(np.float32, *(arrays[key].dtype for key in shapes))
    params = {}
    for key in shapes:
        turned = key == "W_enc"
        a = arrays[key].swapaxes(-1, -2) if turned else arrays[key]
        a = np.array(a, dtype, order="C")
        bad = int((~np.isfinite(a)).sum())
        if bad:
            raise InputError(f"{source}: {key} has {bad} entries that are not finite")
        params[key] = a.swapaxes(-1, -2) if turned else a
    return params


def _names(arrays: Mapping[str, Any]) -> str:
    """Return some of the names, on one line whatever stands in them."""
    shown = ", ".join(sorted(name[:80] for name in arrays))[:160] or "none"
    return shown if shown.isprintable() else repr(shown)


def is_float(a: np.ndarray) -> bool:
    """Return whether an array holds floating-point numbers, bfloat16 included."""
    return bool(np.issubdtype(a.dtype, np.floating)) or a.dtype == ml_dtypes.bfloat16


def gather(arrays: Mapping[str, Any], layout: Layout, source: Path) -> dict[str, np.ndarray]:
    """Return the arrays that ``layout`` names under our names, as views in our orientation.

    Raises
    ------
    InputError
        If one is missing, empty or no array, or one to be transposed is no matrix.
    """
    ours = {}
    for key, theirs in layout.items():
        name = theirs.removesuffix(".T")
        a = arrays.get(name)
        if not isinstance(a, np.ndarray):
            have = _names(arrays)
            raise InputError(f"{source}: expected an array {name}, found {have}")
        if not a.size:
            raise InputError(f"{source}: expected an array {name} with entries, got shape {a.shape}")
        if theirs.endswith(".T") and a.ndim != 2:
            raise InputError(f"{source}: expected a matrix {name}, got shape {a.shape}")
        ours[key] = a.T if theirs.endswith(".T") else a
    return ours


def spread(params: Mapping[str, np.ndarray], layout: Layout) -> dict[str, np.ndarray]:
    """Return our parameters under a format's names and in its orientation, contiguous: the inverse of gather."""
    return {
        theirs.removesuffix(".T"): np.ascontiguousarray(params[key].T if theirs.endswith(".T") else params[key])
        for key, theirs in layout.items()
    }


def widened(a: np.ndarray) -> np.ndarray:
    """Return an array in float64 for arithmetic on it; the result is rounded once."""
    return a.astype(np.float64)


def unsaid(key: str) -> str:
    """Return what to do about what a file does not say."""
    return f'the file does not say, so options={{"{key}": …}} must, on the command line --set {key}=…'


def number_of(fields: Mapping[str, Any], key: str, source: Path, *, whole: bool = False, asked: bool = False) -> Any:
    """Return a positive finite number out of a file's fields, or out of options that are ``asked`` for in its place.

    Raises
    ------
    InputError
        If it is missing or anything else.
    """
    value = fields.get(key)
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < 2**53:
        if value is None:
            got = unsaid(key) if asked else "there is none"
            raise InputError(f"{source}: expected a {'whole ' * whole}number above 0 for {key}: {got}")
        shown = value if isinstance(value, int | float | str) else type(value).__name__
        raise InputError(f"{source}: expected a {'whole ' * whole}number above 0 for {key}, got {str(shown)[:40]!r}")
    return value


def scalar_of(arrays: Mapping[str, Any], key: str, source: Path) -> float:
    """Return a number that stands in a file as an array of one entry.

    Raises
    ------
    InputError
        If it is missing, not finite or anything else.
    """
    a = arrays.get(key)
    if not isinstance(a, np.ndarray) or a.size != 1 or a.dtype.kind not in "fiuV" or not np.isfinite(float(a.item())):
        raise InputError(f"{source}: expected one finite number {key}, got {'none' if a is None else 'something else'}")
    return float(a.item())


def trained_options(record: Any, name: str, source: object) -> dict[str, Any]:
    """Return the options of training that a writer of ours noted beside a file, none where nothing was noted.

    Raises
    ------
    InputError
        If the note is of another variant, or no note of ours.
    """
    if record is None:
        return {}
    cfg = record.get("cfg") if isinstance(record, dict) and record.get("variant") == name else None
    if not isinstance(cfg, dict):
        raise InputError(f"{source}: expected minisae to hold variant {name} and cfg, got something else")
    return {key: value for key, value in cfg.items() if key not in ("d_in", "d_sae")}


def hooks_of(fields: Mapping[str, Any], into: str, out: str, source: object) -> dict[str, str]:
    """Return the hooks of input and output under the names that metadata has for them, those that fields name.

    Raises
    ------
    InputError
        If one is no text.
    """
    found: dict[str, str] = {}
    for ours, theirs in (("hook_name", into), ("hook_name_out", out)):
        value = fields.get(theirs)
        if value is not None and not isinstance(value, str):
            raise InputError(f"{source}: expected {theirs} to be text, got a {type(value).__name__}")
        found |= {} if value is None else {ours: value}
    return found


def only(options: Mapping[str, Any], known: tuple[str, ...], source: object) -> None:
    """Refuse options that a format has no use for.

    Raises
    ------
    InputError
        Naming them and those it takes.
    """
    unknown = sorted(set(options) - set(known))
    if unknown:
        takes = f"expected some of {', '.join(known)}" if known else "this format says everything itself"
        raise InputError(f"{source}: no option {', '.join(unknown)}; {takes}")


def refuse(target: str, what: str) -> InputError:
    """Return the error for what a format cannot express."""
    return InputError(f"{target}: cannot hold {what}; nothing was written")
