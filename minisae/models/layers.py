"""The parts of a small transformer, forward and backward, and its loss.

    rms_norm(x) = w x / sqrt(mean(x^2) + eps)                (Zhang and Sennrich 2019, eq. 4)
    attention   = softmax(q k^T / sqrt(e) + bias) v W_o,     q, k, v = split(y W_qkv), e the width of a head
                                                             (Vaswani et al. 2017, section 3.2)
    bias_hij    = -2^(-8h/H) (i - j) for j <= i, else -inf   (ALiBi; Press et al. 2022, section 3; h = 1 ... H)

Letters: batch b, context t, rows n = b*t, width d, heads h, head width e, vocabulary v.
"""

from minisae.backend import Array, namespace

EPS = 1e-5


def rms_norm(x: Array, w: Array) -> tuple[Array, Array, Array]:
    """Return ``w x / rms(x)`` ``(n, d)``, and ``x / rms(x)`` and ``1 / rms(x)`` ``(n,)`` for the way back."""
    xp = namespace(x)
    d = x.shape[1]
    scale = 1 / xp.sqrt(xp.einsum("nd,nd->n", x, x) / d + EPS)  # (n,)
    x_hat = x * scale[:, None]  # (n, d)
    return x_hat * w, x_hat, scale


def rms_norm_backward(d_y: Array, w: Array, x_hat: Array, scale: Array) -> tuple[Array, Array]:
    """Return the slopes on ``x`` ``(n, d)`` and on ``w`` ``(d,)``."""
    xp = namespace(d_y)
    d = d_y.shape[1]
    d_w = xp.einsum("nd,nd->d", d_y, x_hat)  # (d,)
    d_x = d_y * w  # (n, d), on x_hat so far
    along = xp.einsum("nd,nd->n", d_x, x_hat) / d  # (n,)
    d_x -= x_hat * along[:, None]
    d_x *= scale[:, None]
    return d_x, d_w


def alibi(h: int, t: int, like: Array) -> Array:
    """Return the causal bias ``(h, t, t)`` of the scores in the array module and dtype of ``like``."""
    xp = namespace(like)
    slopes = 2.0 ** (-8.0 * xp.arange(1, h + 1) / h)  # (h,)
    back = xp.arange(t)[:, None] - xp.arange(t)  # (t, t), how far key j lies behind query i
    bias = xp.where(back < 0, -xp.inf, -slopes[:, None, None] * back)  # (h, t, t)
    return bias.astype(like.dtype)


def _heads(qkv: Array, b: int, h: int) -> Array:
    """Return the view ``(3, b, h, t, e)`` of ``qkv`` ``(b*t, 3*d)``."""
    return qkv.reshape(b, -1, 3, h, qkv.shape[1] // (3 * h)).transpose(2, 0, 3, 1, 4)


def attention(y: Array, W_qkv: Array, W_o: Array, bias: Array, b: int) -> tuple[Array, dict[str, Array]]:
    """Return the attention output ``(n, d)`` of the normed rows ``y`` ``(n, d)``, and what its backward needs."""
    xp = namespace(y)
    n, d = y.shape
    h = bias.shape[0]
    qkv = y @ W_qkv  # (n, 3*d)
    qkv[:, :d] *= (d // h) ** -0.5
    q, k, v = _heads(qkv, b, h)
    p = q @ k.swapaxes(-1, -2)  # (b, h, t, t), scores, then probabilities, in place
    p += bias
    p -= p.max(axis=-1, keepdims=True)
    xp.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    z = (p @ v).swapaxes(1, 2).reshape(n, d)  # (n, d)
    return z @ W_o, {"y1": y, "qkv": qkv, "p": p, "z": z}


def attention_backward(d_out: Array, W_qkv: Array, W_o: Array, kept: dict[str, Array], b: int) -> tuple[Array, Array]:
    """Return the slopes on ``y`` ``(n, d)`` and on ``qkv`` ``(n, 3*d)``.

    ``sum_j p_ij d_p_ij = d_z_i . z_i``, which spares a pass over the ``t x t`` array (Dao et al. 2022, appendix B).
    """
    xp = namespace(d_out)
    p, z = kept["p"], kept["z"]
    n, d = z.shape
    h, t = p.shape[1:3]
    q, k, v = _heads(kept["qkv"], b, h)
    d_z = d_out @ W_o.T  # (n, d)
    inner = xp.einsum("bthe,bthe->bht", d_z.reshape(b, t, h, -1), z.reshape(b, t, h, -1))  # (b, h, t)
    d_z_heads = d_z.reshape(b, t, h, -1).swapaxes(1, 2)  # (b, h, t, e)
    d_scores = d_z_heads @ v.swapaxes(-1, -2)  # (b, h, t, t), on p so far
    d_scores -= inner[..., None]
    d_scores *= p
    d_qkv = xp.empty((n, 3 * d), dtype=d_out.dtype)  # (n, 3*d)
    d_q, d_k, d_v = _heads(d_qkv, b, h)
    d_q[...] = d_scores @ k
    d_k[...] = d_scores.swapaxes(-1, -2) @ q
    d_v[...] = p.swapaxes(-1, -2) @ d_z_heads
    d_qkv[:, :d] *= (d // h) ** -0.5
    return d_qkv @ W_qkv.T, d_qkv


def one_hot(tokens: Array, v: int, like: Array) -> Array:
    """Return ``(n, v)`` rows with a one at each token, so that the embedding's slope is a product, in a fixed order."""
    xp = namespace(like)
    flat = tokens.reshape(-1)  # (n,)
    rows = xp.zeros((flat.shape[0], v), dtype=like.dtype)  # (n, v)
    rows[xp.arange(flat.shape[0]), flat] = 1
    return rows


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities, natural logarithm, over the last axis."""
    xp = namespace(logits)
    shifted = logits - logits.max(axis=-1, keepdims=True)  # (..., v)
    return shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))


def loss_per_position(logits: Array, targets: Array) -> Array:
    """Return the cross-entropy in nats at each position ``(b, t)``; ``targets`` ``(b, t)`` are the next tokens."""
    xp = namespace(logits)
    return -xp.take_along_axis(log_softmax(logits), targets[..., None], axis=-1)[..., 0]


def cross_entropy(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return the mean cross-entropy in nats and its slope on the logits ``(b, t, v)``: ``(p - one_hot) / (b t)``."""
    xp = namespace(logits)
    b, t, v = logits.shape
    log_p = log_softmax(logits)  # (b, t, v)
    hits = one_hot(targets, v, logits).reshape(b, t, v)  # (b, t, v)
    return -(log_p * hits).sum() / (b * t), (xp.exp(log_p) - hits) / (b * t)
