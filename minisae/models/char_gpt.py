"""A pre-norm GPT over characters: forward and backward by hand, with hooks that read and replace activations.

With rows ``n = b*t``, one block is (Vaswani et al. 2017, section 3.2; pre-norm: Xiong et al. 2020, figure 1b)

    x_mid  = x + attention(rms_norm(x))
    x_post = x_mid + ReLU(rms_norm(x_mid) W_in) W_out

with the parts in :mod:`minisae.models.layers`, and the logits are ``rms_norm(x) W_U``. ALiBi gives the model its only
sense of position, so no direction of the residual stream is spent on it. There are no bias vectors. Letters: batch b,
context t, width d, heads h, MLP width m, vocabulary v.
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from minisae.backend import Array, namespace
from minisae.errors import InputError
from minisae.models.layers import alibi, attention, attention_backward, one_hot, rms_norm, rms_norm_backward

Params = dict[str, Array]
Hook = Callable[[Array], Array]


class Config(NamedTuple):
    """Sizes of the model: vocabulary, longest context, blocks, width, heads, MLP width."""

    n_vocab: int = 85
    n_ctx: int = 128
    n_layer: int = 4
    d_model: int = 128
    n_head: int = 4
    d_mlp: int = 512


class Cache(NamedTuple):
    """What :func:`backward` needs of one forward pass; ``blocks`` is empty where ``keep=False``."""

    tokens: Array
    blocks: list[dict[str, Array]]
    last: dict[str, Array]
    replaced: frozenset[str]


class Out(NamedTuple):
    """Logits ``(b, t, v)``, ``None`` where the run stopped early, and the activations asked for, each ``(b, t, d)``."""

    logits: Array
    activations: dict[str, Array]


def shapes(cfg: Config) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every parameter."""
    d = cfg.d_model
    table: dict[str, tuple[int, ...]] = {"embed.W_E": (cfg.n_vocab, d)}
    for i in range(cfg.n_layer):
        table |= {f"blocks.{i}.ln1.w": (d,), f"blocks.{i}.attn.W_qkv": (d, 3 * d), f"blocks.{i}.attn.W_o": (d, d)}
        table |= {f"blocks.{i}.ln2.w": (d,), f"blocks.{i}.mlp.W_in": (d, cfg.d_mlp)}
        table |= {f"blocks.{i}.mlp.W_out": (cfg.d_mlp, d)}
    return table | {"ln_final.w": (d,), "unembed.W_U": (d, cfg.n_vocab)}


def hook_names(cfg: Config) -> tuple[str, ...]:
    """Return every hook in the order in which a forward pass reaches them; names as in TransformerLens."""
    points = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    return tuple(f"blocks.{i}.hook_{p}" for i in range(cfg.n_layer) for p in points)


def init(cfg: Config, rng: np.random.Generator, *, dtype: str = "float32") -> Params:
    """Return random parameters: normal with deviation ``fan_in ** -0.5``, norm weights one, embedding deviation 0.5.

    The two matrices of a block that write to the residual stream are divided by ``sqrt(2 n_layer)`` (Radford et al.
    2019, section 2.3).
    """
    params: Params = {}
    for name, shape in shapes(cfg).items():
        if len(shape) == 1:
            params[name] = np.ones(shape, dtype=dtype)
            continue
        scale = 0.5 if name == "embed.W_E" else shape[0] ** -0.5
        if name.endswith(("W_o", "W_out")):
            scale /= (2 * cfg.n_layer) ** 0.5
        params[name] = (scale * rng.standard_normal(shape)).astype(dtype)
    return params


def forward(
    params: Params,
    tokens: Array,
    cfg: Config,
    *,
    read: Collection[str] = (),
    replace: Mapping[str, Hook] | None = None,
    layers: int | None = None,
    keep: bool = True,
) -> tuple[Out, Cache]:
    """Run the model on ``tokens`` ``(b, t)``, int.

    Parameters
    ----------
    params, tokens, cfg
        Parameters of :func:`shapes`, tokens below ``cfg.n_vocab``, sizes.
    read
        Names of hooks whose activation is returned: the value that flows on, after any replacement.
    replace
        Hook name to a function of the activation ``(b, t, d)`` that returns what flows on in its place.
    layers
        Run only this many blocks; ``logits`` is then ``None``.
    keep
        Keep what :func:`backward` needs. ``False`` saves the memory.

    Raises
    ------
    InputError
        For an unknown hook, a context longer than ``cfg.n_ctx``, or a replacement of another shape.
    """
    replace = replace or {}
    _check(tokens, cfg, {*read, *replace})
    b, t = tokens.shape
    d = cfg.d_model
    bias = alibi(cfg.n_head, t, params["embed.W_E"])  # (h, t, t)
    activations: dict[str, Array] = {}
    cache = Cache(tokens, [], {}, frozenset(replace))

    def hook(name: str, x: Array) -> Array:
        if name in replace:
            new = replace[name](x.reshape(b, t, d))  # (b, t, d)
            if new.shape != (b, t, d):
                raise InputError(f"replace[{name!r}]: expected shape {(b, t, d)}, got {new.shape}")
            x = new.reshape(b * t, d)  # (b*t, d)
        if name in read:
            activations[name] = x.reshape(b, t, d)
        return x

    x = params["embed.W_E"][tokens.reshape(-1)]  # (b*t, d)
    for i in range(cfg.n_layer if layers is None else layers):
        x, kept = _block(params, x, i, bias, b, hook)
        if keep:
            cache.blocks.append(kept)
    if layers is not None:
        return Out(None, activations), cache
    y, x_hat, scale = rms_norm(x, params["ln_final.w"])
    cache.last.update({"y": y, "x_hat": x_hat, "scale": scale} if keep else {})
    return Out((y @ params["unembed.W_U"]).reshape(b, t, -1), activations), cache


def _check(tokens: Array, cfg: Config, names: set[str]) -> None:
    if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= cfg.n_ctx:
        raise InputError(f"tokens: expected shape (b, t) with 1 <= t <= {cfg.n_ctx}, got {tokens.shape}")
    unknown = names - set(hook_names(cfg))
    if unknown:
        raise InputError(f"hook: expected one of {', '.join(hook_names(cfg))}; got {', '.join(sorted(unknown))}")


def _block(
    params: Params, x: Array, i: int, bias: Array, b: int, hook: Callable[[str, Array], Array]
) -> tuple[Array, dict[str, Array]]:
    """Return the residual stream ``(n, d)`` after block ``i`` and what the block's backward needs."""
    xp = namespace(x)
    at = f"blocks.{i}."
    x = hook(at + "hook_resid_pre", x)  # (n, d)
    y, x_hat1, scale1 = rms_norm(x, params[at + "ln1.w"])
    out, kept = attention(y, params[at + "attn.W_qkv"], params[at + "attn.W_o"], bias, b)
    x = hook(at + "hook_resid_mid", x + hook(at + "hook_attn_out", out))  # (n, d)
    y, x_hat2, scale2 = rms_norm(x, params[at + "ln2.w"])
    a = y @ params[at + "mlp.W_in"]  # (n, m)
    xp.maximum(a, 0, out=a)
    out = hook(at + "hook_mlp_out", a @ params[at + "mlp.W_out"])  # (n, d)
    kept |= {"x_hat1": x_hat1, "scale1": scale1, "x_hat2": x_hat2, "scale2": scale2, "y2": y, "a": a}
    return hook(at + "hook_resid_post", x + out), kept


def backward(
    params: Params,
    cache: Cache,
    cfg: Config,
    d_logits: Array,
    *,
    want: Collection[str] = (),
    through: Mapping[str, Hook] | None = None,
    want_params: bool = True,
) -> dict[str, Array]:
    """Return the slopes of a loss whose slope on the logits is ``d_logits`` ``(b, t, v)``.

    Parameters
    ----------
    params, cache, cfg, d_logits
        As given to, and returned by, :func:`forward` with ``keep=True``.
    want
        Hooks at which to return the slope ``(b, t, d)`` on the value that flows on (after any replacement), under
        the hook's name.
    through
        For a replaced hook, the backward of the replacement: slope after it to slope before it. A replaced activation
        without one counts as a constant: nothing flows back through it.
    want_params
        Return the slope on every parameter too. Without it the pass stops at the lowest hook in ``want``.
    """
    through = through or {}
    b, t = cache.tokens.shape
    grads: dict[str, Array] = {}

    def hook(name: str, d_x: Array) -> Array:
        if name in want:
            grads[name] = d_x.reshape(b, t, -1)
        if name in through:
            return through[name](d_x.reshape(b, t, -1)).reshape(d_x.shape)
        return namespace(d_x).zeros_like(d_x) if name in cache.replaced else d_x

    d_flat = d_logits.reshape(b * t, -1)  # (b*t, v)
    d_x, d_w = rms_norm_backward(
        d_flat @ params["unembed.W_U"].T, params["ln_final.w"], cache.last["x_hat"], cache.last["scale"]
    )
    if want_params:
        grads |= {"ln_final.w": d_w, "unembed.W_U": cache.last["y"].T @ d_flat}
    for i in reversed(range(cfg.n_layer)):
        if not want_params and set(want) <= grads.keys():
            return grads
        d_x = _block_backward(params, d_x, i, cache.blocks[i], b, hook, grads if want_params else None)  # (b*t, d)
    if want_params:
        grads["embed.W_E"] = one_hot(cache.tokens, cfg.n_vocab, d_x).T @ d_x
    return grads


def _block_backward(
    params: Params,
    d_x: Array,
    i: int,
    kept: dict[str, Array],
    b: int,
    hook: Callable[[str, Array], Array],
    grads: dict[str, Array] | None,
) -> Array:
    """Return the slope ``(n, d)`` on what enters block ``i``; slopes on its parameters go into ``grads`` if given."""
    at = f"blocks.{i}."
    d_x = hook(at + "hook_resid_post", d_x)  # (n, d)
    d_out = hook(at + "hook_mlp_out", d_x)  # (n, d)
    d_a = d_out @ params[at + "mlp.W_out"].T  # (n, m)
    d_a *= kept["a"] > 0
    d_y = d_a @ params[at + "mlp.W_in"].T  # (n, d)
    d_in, d_w2 = rms_norm_backward(d_y, params[at + "ln2.w"], kept["x_hat2"], kept["scale2"])
    if grads is not None:
        grads |= {at + "mlp.W_out": kept["a"].T @ d_out, at + "mlp.W_in": kept["y2"].T @ d_a, at + "ln2.w": d_w2}
    d_x = hook(at + "hook_resid_mid", d_x + d_in)  # (n, d)
    d_out = hook(at + "hook_attn_out", d_x)  # (n, d)
    W_qkv, W_o = params[at + "attn.W_qkv"], params[at + "attn.W_o"]
    d_y, d_qkv = attention_backward(d_out, W_qkv, W_o, kept, b)
    d_in, d_w1 = rms_norm_backward(d_y, params[at + "ln1.w"], kept["x_hat1"], kept["scale1"])
    if grads is not None:
        grads |= {at + "attn.W_o": kept["z"].T @ d_out, at + "attn.W_qkv": kept["y1"].T @ d_qkv, at + "ln1.w": d_w1}
    return hook(at + "hook_resid_pre", d_x + d_in)
