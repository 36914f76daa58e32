"""The real libraries behind one small interface: put parameters in, take a step on a batch, read parameters out."""

import importlib
import importlib.util
import inspect
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

train = importlib.import_module("minisae.train")


class Peer(NamedTuple):
    """A library's own trainer, ready for its first step."""

    parameters: dict[str, tuple[Any, bool]]
    """Its parameters by minisae's names, and whether they lie transposed."""
    step: Callable[[int, np.ndarray], None]
    """Take step ``t`` on rows ``(n, d_in)``."""
    first: Callable[[np.ndarray], dict[str, np.ndarray]] = lambda x: {}
    """What the trainer itself sets on its first batch."""
    state: Callable[[], dict[str, float]] = dict
    """What it keeps beside its parameters."""

    def load(self, params):
        """Put parameters into the library."""
        torch = importlib.import_module("torch")

        for name, (p, turn) in self.parameters.items():
            ours = np.ascontiguousarray(params[name].T if turn else params[name])
            p.data.copy_(torch.as_tensor(ours).reshape(p.shape))

    def read(self):
        """Parameters as they stand."""
        found = {name: p.detach().numpy().astype(np.float64) for name, (p, _) in self.parameters.items()}
        return {name: a.T if self.parameters[name][1] else a for name, a in found.items()}


def saelens(kind, run, own, *, window=1000):
    """SAELens' ``SAETrainer`` around the training class of an architecture."""
    import sae_lens

    torch = importlib.import_module("torch")
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    r = run.recipe
    config = getattr(sae_lens, f"{kind}TrainingSAEConfig")
    sae = getattr(sae_lens, f"{kind}TrainingSAE")(
        config(d_in=run.cfg.d_in, d_sae=run.cfg.d_sae, dtype="float64", device="cpu", **own)
    )
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=r.steps * r.batch_size, train_batch_size_samples=r.batch_size, lr=r.lr,
            lr_end=r.lr / 10, lr_warm_up_steps=r.lr_warmup, lr_decay_steps=r.steps - DECAY_START,
            dead_feature_window=window,
        ),
        sae, iter(()),
    )  # fmt: skip
    parameters = {{"b_gate": "b_enc"}.get(name, name): (p, False) for name, p in sae.named_parameters()}

    def step(t, x):
        trainer.step(torch.as_tensor(x))
        trainer.n_training_steps += 1

    def state():
        return {"threshold": float(sae.topk_threshold)} if hasattr(sae, "topk_threshold") else {}

    return Peer(parameters, step, state=state)


def dictionary_learning(kind, run, own, *, dead_after=None):
    """A trainer of dictionary_learning, with its own ``update``; its rows until a latent is dead are no argument."""
    torch = importlib.import_module("torch")

    module, name = kind
    r = run.recipe
    trainer = getattr(importlib.import_module(f"dictionary_learning.trainers.{module}"), name)(
        steps=r.steps, activation_dim=run.cfg.d_in, dict_size=run.cfg.d_sae, layer=0, lm_name="none", device="cpu",
        lr=r.lr, warmup_steps=r.lr_warmup, **own,
    )  # fmt: skip
    trainer.ae.double()
    if dead_after:
        trainer.dead_feature_threshold = dead_after
    names = {
        "bias": "b_dec", "decoder_bias": "b_dec", "encoder.bias": "b_enc", "gate_bias": "b_enc", "mag_bias": "b_mag",
        "encoder.weight": "W_enc", "decoder.weight": "W_dec",
    }  # fmt: skip
    parameters = {names.get(theirs, theirs): (p, "weight" in theirs) for theirs, p in trainer.ae.named_parameters()}

    def first(x):
        median = getattr(sys.modules[type(trainer).__module__], "geometric_median", None)
        median = getattr(trainer, "geometric_median", median)
        return {"b_dec": median(torch.as_tensor(x)).numpy()} if median else {}

    def state():
        threshold = getattr(trainer.ae, "threshold", None)
        moves = threshold is not None and "threshold" not in parameters
        return {"threshold": float(threshold)} if moves else {}

    return Peer(parameters, lambda t, x: trainer.update(t, torch.as_tensor(x)), first, state)


def sparsify(run, own, *, auxk_alpha, dead_after, optimiser):
    """sparsify's ``SparseCoder`` in the order of its ``Trainer.fit``, which is bound to a language model."""
    import schedulefree

    torch = importlib.import_module("torch")
    from sparsify import SparseCoder, SparseCoderConfig
    from sparsify.sign_sgd import SignSGD
    from transformers import get_linear_schedule_with_warmup

    r = run.recipe
    cfg = SparseCoderConfig(num_latents=run.cfg.d_sae, k=run.cfg.k, **own)
    coder = SparseCoder(run.cfg.d_in, cfg, dtype=torch.float64)
    if optimiser == "signum":
        optimizer = schedulefree.ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=r.lr), momentum=r.beta1)
        optimizer.train()
    else:
        optimizer = torch.optim.Adam(coder.parameters(), lr=r.lr)
        scheduler = get_linear_schedule_with_warmup(optimizer, r.lr_warmup, r.steps)
    since = torch.zeros(run.cfg.d_sae, dtype=torch.long)
    constrained = cfg.normalize_decoder and not cfg.transcode

    def step(t, x):
        rows = torch.as_tensor(x)
        both = (rows[:, : run.cfg.d_in], rows[:, run.cfg.d_in :]) if cfg.transcode else (rows,)
        if constrained:
            coder.set_decoder_norm_to_unit_norm()
        out = coder(*both, dead_mask=since > dead_after if auxk_alpha > 0 else None)
        (out.fvu + auxk_alpha * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        if constrained:
            coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        if optimiser != "signum":
            scheduler.step()
        since.add_(len(rows))
        since[out.latent_indices.flatten()] = 0

    names = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}
    parameters = {names.get(name, name): (p, name == "encoder.weight") for name, p in coder.named_parameters()}
    return Peer(parameters, step, lambda x: {"b_dec": x[:, -run.cfg.d_in :].mean(axis=0)})


def without_pictures(package):
    """Make a package's modules importable where its ``__init__`` is not, for want of what draws and loads images."""
    if package in sys.modules:
        return
    try:
        importlib.import_module(package)
    except ImportError:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
        hollow = types.ModuleType(package)
        hollow.__spec__ = importlib.util.find_spec(package)
        hollow.__path__ = list(hollow.__spec__.submodule_search_locations)
        sys.modules[package] = hollow


def _without_epsilon(model):
    """Let overcomplete's dictionary compute what its own source does with 0 in place of 1e-8."""
    layer = model.dictionary
    torch = importlib.import_module("torch")
    if hasattr(layer, "normalization"):
        layer.normalization = lambda rows: rows / torch.norm(rows, p=2, dim=1, keepdim=True)
        return
    source = textwrap.dedent(inspect.getsource(type(layer).get_dictionary))
    assert source.count("1e-8") == 1
    space = {"torch": torch}
    exec(source.replace("1e-8", "0"), space)  # the library's own text but for one constant
    layer.get_dictionary = types.MethodType(space["get_dictionary"], layer)


def overcomplete(kind, run, own, *, criterion, penalty, epsilon=True):
    """One of overcomplete's autoencoders with a linear encoder, in the order of its ``train_sae``."""
    torch = importlib.import_module("torch")
    without_pictures("overcomplete")
    place = {"MpSAE": "overcomplete.sae.mp_sae", "RATopKSAE": "overcomplete.sae.rasae"}.get(kind, "overcomplete.sae")
    from overcomplete.sae import losses
    from overcomplete.sae.modules import MLPEncoder

    r, d_in, d_sae = run.recipe, run.cfg.d_in, run.cfg.d_sae
    linear = MLPEncoder(d_in, d_sae, norm_layer=lambda width: torch.nn.Identity())
    encoder = {} if kind == "MpSAE" else {"encoder_module": linear}
    if kind == "RATopKSAE":
        encoder["points"] = torch.as_tensor(run.params["points"])
    model = getattr(importlib.import_module(place), kind)(d_in, d_sae, **encoder, **own).double().train()
    if not epsilon:
        _without_epsilon(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=r.lr)
    schedule = [train.now(run._replace(step=t))[1] for t in range(r.steps)]  # the user's own, as the optimiser is

    def step(t, x):
        rows = torch.as_tensor(x)
        optimizer.param_groups[0]["lr"] = schedule[t]
        optimizer.zero_grad()
        pre, code, x_hat = model(rows)
        getattr(losses, criterion)(rows, x_hat, pre, code, model.get_dictionary(), penalty=penalty).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def state():
        if kind == "RATopKSAE":
            model.get_dictionary()  # brings its parameters back where it is computed, not after a step
        running = getattr(model, "running_threshold", None)
        return {} if running is None else {"threshold": float(running)}

    names = {"dictionary._weights": "W_dec", "thresholds": "threshold", "dictionary.W": "A"}
    names |= {"dictionary.Relax": "relaxation", "dictionary.multiplier": "log_scale"}
    names |= {"encoder.final_block.0.weight": "W_enc", "encoder.final_block.0.bias": "b_enc"}
    parameters = {names[name]: (p, "final_block.0.weight" in name) for name, p in model.named_parameters()}
    return Peer(parameters, step, state=state)


DECAY_START = 6
"""Step at which every trajectory's rate begins to fall."""
