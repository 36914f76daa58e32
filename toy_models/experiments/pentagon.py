"""Getting out of superposition again: autoencoders on the hidden activations of the toy whose features are a pentagon.

ARENA, chapter "Superposition and SAEs", "SAEs in toy models": five features in two dimensions at p = 0.025, one trained
toy, 16 autoencoders with as many latents as features. Encoder and decoder start apart; latents die, and without
resampling few autoencoders have all five features. Started with ``W_enc = W_decᵀ`` none dies, and still many lack a
feature: two latents share one and another lies between two, which resampling of silent latents does not see.
"""

from collections.abc import Sequence

from minisae.sae import relu
from toy_models import data, exact, models, train
from toy_models.experiments import saes
from toy_models.experiments.saes import Resampling, TrainedSAEs
from toy_models.models import Params

TOY = models.Config(n_feat=5, n_hid=2)
DENSITY = 0.025
SAE = relu.Config(d_in=2, d_sae=5, l1=0.2, reduction="mean")
"""ARENA's autoencoder of the pentagon: as many latents as features, mean error over d_in, λ 0.2."""


def toy(*, starts: int = 8, steps: int = 5000, batch_size: int = 1024, lr: float = 1e-3, seed: int = 0) -> Params:
    """Return the trained toy of ARENA's chapter, one instance ``(1, …)``: five features in two dimensions, p = 0.025.

    The best of several starts by exact loss, patterns of up to three features.

    Parameters
    ----------
    starts : how many toys to choose from
    steps, batch_size, lr, seed : as in :func:`toy_models.train.train`
    """
    features = data.independent(DENSITY, n_feat=TOY.n_feat)
    trained = train.train(TOY, features, steps=steps, batch_size=batch_size, lr=lr, instances=starts, seed=seed)
    rows = exact.batch(DENSITY, n_feat=TOY.n_feat, nodes=8, max_active=3)
    loss = train.evaluate(TOY, trained.params, rows)  # (starts,)
    return train.take(trained.params, train.best(loss, per=starts))


def recover(
    params: Params,
    how: str | None,
    *,
    instances: int = 16,
    steps: int = 12_000,
    batch_size: int = 512,
    lr: float = 1e-3,
    l1: float = SAE.l1,
    start: Params | None = None,
    every: int = 2500,
    window: int = 500,
    snapshots: Sequence[int] = (),
    seed: int = 0,
) -> TrainedSAEs:
    """Train autoencoders on the hidden activations of one toy.

    ARENA trains 20,000 steps on batches of 1024 from :func:`saes.untied_start`, with Adam at 1e-3, and resamples every
    2500 steps what has not fired for 500. The true features are the columns of ``params["W"][0]``.

    Parameters
    ----------
    params : of the :func:`toy`
    how : ``"arena_simple"``, ``"arena_advanced"``, or ``None`` for no resampling
    l1 : λ, beside an error that is the mean over the two dimensions
    start : where to start ``(instances, …)``; by default :func:`toy_models.experiments.saes.untied_start`
    every : steps from one resampling to the next
    instances, steps, batch_size, lr, window, snapshots, seed : as in :func:`toy_models.experiments.saes.train`

    Raises
    ------
    InputError
        If a size, a name or a shape makes no sense.
    """
    cfg, features = SAE._replace(l1=l1), data.independent(DENSITY, n_feat=TOY.n_feat)
    rows = saes.hidden_rows(TOY, params, features, batch_size, instances=instances)
    begun = saes.untied_start("relu", cfg, instances, seed=seed) if start is None else start
    return saes.train(
        "relu", cfg, rows, steps=steps, instances=instances, lr=lr, params=begun, window=window, snapshots=snapshots,
        resampling=None if how is None else Resampling(how, every=every), seed=seed,
    )  # fmt: skip
