"""Using the character GPT: load, save, score, generate, collect activations."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from minisae.backend import Array, backend_of, to_device, to_host
from minisae.errors import InputError
from minisae.models import char_gpt, text
from minisae.models.char_gpt import Config, Hook, Out, Params
from minisae.models.layers import loss_per_position

WEIGHTS = text.DATA / "char_gpt.safetensors"


class CharGPT(NamedTuple):
    """A character model: sizes, parameters, and what to call it in a report."""

    cfg: Config
    params: Params
    name: str = "char_gpt"

    def forward(
        self,
        tokens: Array,
        *,
        read: Collection[str] = (),
        replace: Mapping[str, Hook] | None = None,
        layers: int | None = None,
    ) -> Out:
        """Run on ``tokens`` ``(b, t)``; see :func:`minisae.models.char_gpt.forward`."""
        return char_gpt.forward(self.params, tokens, self.cfg, read=read, replace=replace, layers=layers, keep=False)[0]

    def to(self, backend: str) -> "CharGPT":
        """Return the model with its parameters on ``backend``, a name from :func:`minisae.backend.resolve`."""
        return self._replace(params={name: to_device(p, backend) for name, p in self.params.items()})

    def encode_text(self, string: str) -> Array:
        """Return the tokens ``(t,)``, int32, on the host; see :func:`minisae.models.text.normalise`."""
        return text.encode(string)

    def decode_text(self, tokens: Array) -> str:
        """Return the characters of host ``tokens``."""
        return text.decode(tokens)


def load(path: str | Path | None = None) -> CharGPT:
    """Return the model in ``path``, or the shipped one, as float32.

    Raises
    ------
    InputError
        If the file is missing, is no safetensors file, or holds other parameters than its config asks for.
    """
    path = Path(path or WEIGHTS)
    try:
        with safe_open(path, framework="numpy") as file:
            cfg = Config(**json.loads((file.metadata() or {})["config"]))
            params = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: expected the weights of a character GPT, got {error!r}") from None
    found = {name: p.shape for name, p in params.items()}
    if found != char_gpt.shapes(cfg):
        wrong = sorted(
            name
            for name in found.keys() | char_gpt.shapes(cfg).keys()
            if found.get(name) != char_gpt.shapes(cfg).get(name)
        )
        raise InputError(f"{path}: expected the parameters of {cfg}, got others at {', '.join(wrong)}")
    return CharGPT(cfg, params)


def save(model: CharGPT, path: str | Path) -> None:
    """Write the parameters as float16 and the sizes as JSON metadata; replaces ``path`` in one move."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {name: np.ascontiguousarray(to_host(p).astype(np.float16)) for name, p in model.params.items()}
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(to_bytes(half, metadata={"config": json.dumps(model.cfg._asdict())}))
    unfinished.replace(path)


def random_init(cfg: Config, rng: np.random.Generator) -> CharGPT:
    """Return an untrained model of the same sizes: the control for every claim about a trained one."""
    return CharGPT(cfg, char_gpt.init(cfg, rng), "char_gpt, random weights")


class Rows(NamedTuple):
    """Activations of some characters, one row a character, in reading order."""

    activations: dict[str, Array]
    """Hook name to ``(n, d)``, on the model's backend."""
    doc_id: Array
    """Index of the document ``(n,)``, int32, on the host like the rest."""
    position: Array
    """Position in the model's context ``(n,)``: 0 is the first character that the window shows."""
    token: Array
    """The character read at this row ``(n,)``."""
    offset: Array
    """Index of that character in its document ``(n,)``, int32."""


def windows(tokens: Array, t: int, batch: int) -> Iterator[Array]:
    """Yield ``tokens`` ``(c,)`` in order: up to ``batch`` windows at a time ``(b, t)``, the shorter rest by itself."""
    full = len(tokens) // t * t
    rows = tokens[:full].reshape(-1, t)  # (w, t)
    yield from (rows[i : i + batch] for i in range(0, len(rows), batch))
    if full < len(tokens):
        yield tokens[None, full:]


def document_loss(
    model: CharGPT, tokens: Array, *, replace: Mapping[str, Hook] | None = None, batch: int = 16
) -> Array:
    """Return the cross-entropy in nats of every character but the first of a document ``(c,)``, on the host.

    The windows of ``n_ctx`` characters do not overlap, so a window's first character is the second one's only context.

    Raises
    ------
    InputError
        If the document has fewer than two characters.
    """
    if len(tokens) < 2:
        raise InputError(f"tokens: expected at least 2 characters, got {len(tokens)}")
    t, losses = model.cfg.n_ctx, []
    pairs = zip(windows(tokens[:-1], t, batch), windows(tokens[1:], t, batch), strict=True)
    for inputs, targets in pairs:
        logits = model.forward(_like(model, inputs), replace=replace).logits  # (b, c, v), c = t but in the last window
        losses.append(to_host(loss_per_position(logits, _like(model, targets))).ravel())
    return np.concatenate(losses)


def activations(
    model: CharGPT,
    documents: Sequence[Array],
    *,
    hooks: Sequence[str],
    replace: Mapping[str, Hook] | None = None,
    batch: int = 16,
) -> Iterator[Rows]:
    """Run encoded ``documents`` through the model in windows that do not overlap and yield what ``hooks`` saw.

    Blocks above the highest hook are not computed.
    """
    t = model.cfg.n_ctx
    unknown = set(hooks) - set(char_gpt.hook_names(model.cfg))
    if unknown or not hooks:
        raise InputError(f"hooks: expected names like {char_gpt.hook_names(model.cfg)[0]}, got {list(hooks)}")
    layers = 1 + max(int(name.split(".")[1]) for name in hooks)
    for doc_id, tokens in enumerate(documents):
        start = 0
        for rows in windows(tokens, t, batch):
            out = model.forward(_like(model, rows), read=hooks, replace=replace, layers=layers)
            offset = np.arange(start, start + rows.size, dtype=np.int32)  # (n,)
            start += rows.size
            found = {name: a.reshape(rows.size, -1) for name, a in out.activations.items()}
            yield Rows(found, np.full_like(offset, doc_id), offset % t, rows.reshape(-1), offset)


def generate(model: CharGPT, prompt: str, n: int, *, temperature: float = 1.0, seed: int = 0) -> str:
    """Return ``n`` characters that continue ``prompt``; temperature 0 takes the likeliest (lowest token on a tie).

    Raises
    ------
    InputError
        For an empty prompt or a negative temperature.
    """
    if not prompt:
        raise InputError("prompt: expected at least one character, got an empty string")
    if not temperature >= 0:
        raise InputError(f"temperature: expected 0 or more, got {temperature}")
    rng = np.random.default_rng(seed)
    tokens = list(text.encode(prompt))
    start = len(tokens)
    for _ in range(n):
        context = np.array([tokens[-model.cfg.n_ctx :]], dtype=np.int32)  # (1, t)
        logits = to_host(model.forward(_like(model, context)).logits[0, -1]).astype(np.float64)  # (v,)
        if temperature == 0:
            tokens.append(int(logits.argmax()))
            continue
        p = np.exp((logits - logits.max()) / temperature)  # (v,)
        below = np.cumsum(p)  # (v,)
        tokens.append(int(np.searchsorted(below, rng.random() * below[-1], side="right")))
    return text.decode(tokens[start:])


def _like(model: CharGPT, tokens: Array) -> Array:
    return to_device(tokens, backend_of(model.params["embed.W_E"]))
