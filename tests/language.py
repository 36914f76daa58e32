"""A small language model and a cache of its activations, for the tests of what looks at them."""

import numpy as np

from minisae.cache import open_cache, write_cache
from minisae.models import CharGPT, activations
from minisae.models.char_gpt import Config, init

CFG = Config(n_vocab=85, n_ctx=13, n_layer=2, d_model=12, n_head=3, d_mlp=19)
HOOK = "blocks.0.hook_resid_post"


def small_model(seed=0):
    return CharGPT(CFG, init(CFG, np.random.default_rng(seed)))


def small_texts(sizes=(301, 211, 173, 149, 307, 97), seed=1):
    """Encoded documents in which some characters are much more frequent than others."""
    rng = np.random.default_rng(seed)
    return [(85 * rng.random(n) ** 3).astype(np.int32) for n in sizes]


def text_cache(folder, model, texts, *, hook=HOOK, **options):
    def batches():
        for rows in activations(model, texts, hooks=[hook]):
            known = {"doc_id": rows.doc_id, "position": rows.position, "token": rows.token}
            yield {"acts": rows.activations[hook], **known}

    write_cache(folder, batches(), meta={"model": model.name, "hook": hook}, shard_rows=500, **options)
    return open_cache(folder)
