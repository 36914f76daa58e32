"""minisae: a pure-NumPy reference for sparse autoencoders.

>>> import minisae, numpy as np
>>> x = np.random.default_rng(0).standard_normal((1000, 16)).astype("float32")
>>> sae = minisae.train(x, variant="topk", d_sae=64, k=4, steps=50, batch_size=256, seed=0)
>>> sae.encode(x).shape, sae.decode(sae.encode(x)).shape
((1000, 64), (1000, 16))
"""

from minisae.checkpoint import SAE, load
from minisae.errors import InputError
from minisae.runs import train
from minisae.version import __version__

__all__ = ["SAE", "InputError", "__version__", "load", "train"]
