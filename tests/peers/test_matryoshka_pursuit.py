"""Matryoshka, matching pursuit and archetypal autoencoders beside the real libraries: loss terms, gradients, codes.

    pytest -m peers tests/peers/test_matryoshka_pursuit.py

In float64; 1e-12 but where dictionary_learning casts to float32 inside. Without the libraries the tests are skipped.
"""

import importlib

import numpy as np
import pytest

from minisae.losses import gather
from minisae.ops import dense
from minisae.sae import archetypal, matching_pursuit, matryoshka
from tests.helpers import perturbed
from tests.peers.drivers import without_pictures

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
D_IN, D_SAE, ROWS = 7, 23, 31
EXACT, CAST = 1e-12, 1e-7
RNG = np.random.default_rng(0)
X = RNG.standard_normal((ROWS, D_IN)) + 0.3
DEAD = np.arange(D_SAE) % 3 == 1


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def loaded(torch, model, params, turned=()):
    """Put our parameters into a model; return them by our names."""
    found = {name: getattr(model, name) for name in params}
    for name, p in found.items():
        p.data = torch.as_tensor(np.ascontiguousarray(params[name]))
    return found


def ours(module, params, cfg, dead=None):
    """Loss terms, gradients and outputs of ours."""
    out, cache = module.forward(params, X, cfg, dead=dead)
    terms = module.objective(params, out, X, cfg, dead=dead)
    _, slopes, direct = gather(terms)
    assert not direct
    return {key: float(term.value) for key, term in terms.items()}, module.backward(params, cache, cfg, slopes), out


def compare(theirs, mine, tolerance, msg):
    scale = max(1, np.abs(mine).max())
    np.testing.assert_allclose(theirs, mine, rtol=0, atol=tolerance * scale, err_msg=msg)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("own_level", [False, True])
@pytest.mark.parametrize("share_dead", [1, 4])
def test_matryoshka_of_saelens(torch, rescale, own_level, share_dead):
    sae_lens = pytest.importorskip("sae_lens")
    from sae_lens.saes.sae import TrainStepInput

    widths, dead = (5, 11, D_SAE), DEAD & (np.arange(D_SAE) % share_dead == 0)
    theirs = sae_lens.MatryoshkaBatchTopKTrainingSAE(
        sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=D_IN, d_sae=D_SAE, dtype="float64", device="cpu", k=2.6, matryoshka_widths=list(widths),
            use_matryoshka_aux_loss=own_level, aux_loss_coefficient=0.7, rescale_acts_by_decoder_norm=rescale,
        )
    )  # fmt: skip
    cfg = matryoshka.Config(
        D_IN, D_SAE, 2.6, prefixes=widths, auxk=0.7, auxk_levels="each" if own_level else "last", auxk_relu=False,
        auxk_few="proportional", k_rounding="down", threshold_rule="from_zero", decoder="free",
        select_by="contribution" if rescale else "pre",
    )  # fmt: skip
    params = perturbed(matryoshka, cfg, np.random.default_rng(1))
    params["threshold"][...] = 0
    tensors = loaded(torch, theirs, {key: p for key, p in params.items() if key != "threshold"})
    step = theirs.training_forward_pass(TrainStepInput(torch.as_tensor(X), {}, torch.as_tensor(dead), 0, False))
    step.loss.backward()
    terms, grads, out = ours(matryoshka, params, cfg, dead)
    assert terms["auxk"] > 0
    inner = sum(float(value.detach()) for key, value in step.losses.items() if key.startswith("inner"))
    found = {"mse": step.losses["mse_loss"].item(), "nested": inner}
    found["auxk"] = step.losses["auxiliary_reconstruction_loss"].item()
    for key, value in found.items():
        compare(value, terms[key], EXACT, key)
    for key, p in tensors.items():
        compare(p.grad.numpy(), grads[key], EXACT, key)
    matryoshka.after_step(params, out, cfg, step=0)
    compare(theirs.topk_threshold.item(), params["threshold"][0], EXACT, "threshold")


def learning_trainer(weights):
    trainers = pytest.importorskip("dictionary_learning.trainers.matryoshka_batch_top_k")
    return trainers.MatryoshkaBatchTopKTrainer(
        steps=10_000, activation_dim=D_IN, dict_size=D_SAE, k=3, layer=0, lm_name="", auxk_alpha=0.4, device="cpu",
        group_fractions=[5 / D_SAE, 6 / D_SAE, 12 / D_SAE], group_weights=weights, threshold_start_step=-1,
        threshold_beta=0.9,
    )  # fmt: skip


@pytest.mark.parametrize("level_weights", [None, (0.5, 0.2, 0.3)])
def test_matryoshka_of_dictionary_learning(torch, level_weights):
    trainer = learning_trainer(level_weights)
    trainer.ae.double()
    trainer.num_tokens_since_fired[torch.as_tensor(DEAD)] = 10**8
    cfg = matryoshka.Config(
        D_IN, D_SAE, 3, prefixes=(5, 11, D_SAE), levels="mean", level_weights=level_weights or (1 / 3,) * 3, auxk=0.4,
        auxk_normaliser="residual_variance", threshold_rule="from_first", threshold_decay=0.9,
    )  # fmt: skip
    params = perturbed(matryoshka, cfg, np.random.default_rng(2))
    params["b_enc"][DEAD] -= 1.5  # or most would fire in this batch, which counts
    params["threshold"][...] = -1
    tensors = loaded(torch, trainer.ae, {key: p for key, p in params.items() if key != "threshold"})
    dead = DEAD & ~matryoshka.fired_latents(matryoshka.forward(params, X, cfg)[0], cfg)
    assert 0 < dead.sum() < DEAD.sum()
    terms, grads, out = ours(matryoshka, params, cfg, dead)
    log = trainer.loss(torch.as_tensor(X), step=0, logging=True)
    trainer.num_tokens_since_fired[torch.as_tensor(DEAD)] = 10**8  # noted as fired just now, where they did
    trainer.loss(torch.as_tensor(X), step=0).backward()
    compare(log.losses["l2_loss"], terms["mse"] + terms["nested"], EXACT, "errors")
    compare(log.losses["loss"], sum(terms.values()), CAST, "loss")
    for key, p in tensors.items():
        compare(p.grad.numpy(), grads[key], CAST, key)
    matryoshka.after_step(params, out, cfg, step=0)
    compare(float(trainer.ae.threshold), params["threshold"][0], CAST, "threshold")


def test_a_prefix_is_active_groups_of_dictionary_learning(torch):
    theirs = learning_trainer(None).ae.double()
    cfg = matryoshka.Config(D_IN, D_SAE, 3, prefixes=(5, 11))
    params = perturbed(matryoshka, cfg, np.random.default_rng(3))
    params["threshold"][...] = 0.4
    loaded(torch, theirs, {key: p for key, p in params.items() if key != "threshold"})
    theirs.threshold = torch.tensor(0.4, dtype=torch.float64)
    for groups, width in ((1, 5), (2, 11), (3, D_SAE)):
        theirs.active_groups = groups
        f = theirs.encode(torch.as_tensor(X)).detach()
        small, its = matryoshka.prefix(params, cfg, width)
        compare(f[:, :width].numpy(), dense(matryoshka.encode(small, X, its)), EXACT, "code")
        assert not f[:, width:].any()
        x_hat = matryoshka.decode(small, matryoshka.encode(small, X, its))
        compare(theirs.decode(f).detach().numpy(), x_hat, EXACT, "reconstruction")


@pytest.mark.parametrize("residual", [0.0, 0.6])
@pytest.mark.parametrize("stop", [False, True])
def test_matching_pursuit_of_saelens(torch, residual, stop):
    sae_lens = pytest.importorskip("sae_lens")
    from sae_lens.saes.sae import TrainStepInput

    theirs = sae_lens.MatchingPursuitTrainingSAE(
        sae_lens.MatchingPursuitTrainingSAEConfig(
            d_in=D_IN, d_sae=D_SAE, dtype="float64", device="cpu", residual_threshold=residual, max_iterations=6,
            stop_on_duplicate_support=stop, decoder_init_norm=1.0,
        )
    )  # fmt: skip
    cfg = matching_pursuit.Config(D_IN, D_SAE, 6, residual, stop, match="positive", decoder="free")
    params = matching_pursuit.init(cfg, np.random.default_rng(4), sample=X, dtype=np.float64)
    params["W_dec"] *= np.random.default_rng(5).uniform(0.7, 1.2, (D_SAE, 1))
    tensors = loaded(torch, theirs, params)
    step = theirs.training_forward_pass(TrainStepInput(torch.as_tensor(X), {}, None, 0, False))
    step.loss.backward()
    terms, grads, out = ours(matching_pursuit, params, cfg)
    lengths = (dense(out.f) != 0).sum(axis=1)
    assert lengths.min() < lengths.max(), "no pursuit ended before the others"
    compare(step.feature_acts.detach().numpy(), dense(out.f), EXACT, "code")
    compare(step.loss.item(), terms["mse"], EXACT, "mse")
    for key, p in tensors.items():
        compare(p.grad.numpy(), grads[key], EXACT, key)


def overcomplete(place):
    """A module of overcomplete, which is imported without what it only draws with."""
    pytest.importorskip("einops", reason="overcomplete is not installed (extra peers)")
    without_pictures("overcomplete")
    return pytest.importorskip(f"overcomplete.sae.{place}", reason="overcomplete is not installed (extra peers)")


def test_matching_pursuit_of_overcomplete(torch):
    theirs = overcomplete("mp_sae").MpSAE(D_IN, D_SAE, k=5, dictionary_params={"normalization": "identity"})
    cfg = matching_pursuit.Config(D_IN, D_SAE, 5, reduction="mean")
    params = matching_pursuit.init(cfg, np.random.default_rng(6), dtype=np.float64)
    theirs.dictionary._weights.data = torch.as_tensor(params["W_dec"])
    residual, codes, x_hat = theirs(torch.as_tensor(X))
    loss = (torch.as_tensor(X) - x_hat).square().mean()
    loss.backward()
    terms, grads, out = ours(matching_pursuit, params, cfg)
    compare(codes.detach().numpy(), dense(out.f), EXACT, "code")
    compare(residual.detach().numpy(), X - out.x_hat, EXACT, "residual")
    compare(loss.item(), terms["mse"], EXACT, "mse")
    compare(theirs.dictionary._weights.grad.numpy(), grads["W_dec"], EXACT, "W_dec")


@pytest.mark.parametrize("scaled", [False, True])
def test_archetypal_of_overcomplete(torch, scaled):
    losses, Theirs = overcomplete("losses"), overcomplete("rasae").RATopKSAE
    cfg = archetypal.Config(
        D_IN, D_SAE, 5, candidates=11, delta=0.4, scaled=scaled, reduction="mean", auxk=0.1, auxk_over="unchosen",
        k_aux=D_SAE // 2, auxk_reach="everything",
    )  # fmt: skip
    params = perturbed(archetypal, cfg, np.random.default_rng(7))
    params["b_dec"][...] = 0
    points = torch.as_tensor(params["points"])
    theirs = Theirs(D_IN, D_SAE, points=points, top_k=5, delta=0.4, use_multiplier=scaled).double()
    linear, dictionary = theirs.encoder.final_block[0], theirs.dictionary
    theirs.encoder.final_block = torch.nn.Sequential(linear)
    linear.weight.data = torch.as_tensor(params["W_enc"].T.copy())
    linear.bias.data = torch.as_tensor(params["b_enc"])
    dictionary.W.data, dictionary.Relax.data = torch.as_tensor(params["A"]), torch.as_tensor(params["relaxation"])
    if scaled:
        dictionary.multiplier.data = torch.as_tensor(params["log_scale"][0])
    pre, codes, x_hat = theirs(torch.as_tensor(X))
    archetypal.after_step(params, None, cfg, step=0)
    compare(dictionary.W.detach().numpy(), params["A"], CAST, "A brought back")  # its sums have 1e-8 added
    compare(dictionary.Relax.detach().numpy(), params["relaxation"], EXACT, "Λ brought back")
    assert np.allclose(np.linalg.norm(params["relaxation"], axis=1).max(), 0.4)
    params["A"] = dictionary.W.detach().numpy().copy()
    loss = losses.top_k_auxiliary_loss(torch.as_tensor(X), x_hat, pre, codes, dictionary.get_dictionary(), penalty=0.1)
    loss.backward()
    terms, grads, out = ours(archetypal, params, cfg, DEAD)
    compare(codes.detach().numpy(), dense(out.f), EXACT, "code")
    compare(x_hat.detach().numpy(), out.x_hat, EXACT, "x_hat")
    compare(loss.item(), sum(terms.values()), CAST, "loss")  # the dictionary is brought back again for AuxK
    compare(linear.weight.grad.numpy().T, grads["W_enc"], CAST, "W_enc")
    compare(linear.bias.grad.numpy(), grads["b_enc"], CAST, "b_enc")
    compare(dictionary.W.grad.numpy(), grads["A"], CAST, "A")
    compare(dictionary.Relax.grad.numpy(), grads["relaxation"], CAST, "Λ")
    if scaled:
        compare(dictionary.multiplier.grad.numpy(), grads["log_scale"][0], CAST, "s")


def test_what_saelens_trains_as_matryoshka_is_read(torch, tmp_path):
    minisae, sae_lens = importlib.import_module("minisae"), pytest.importorskip("sae_lens")
    theirs = sae_lens.MatryoshkaBatchTopKTrainingSAE(
        sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=2.6, matryoshka_widths=[5, 11, D_SAE])
    )
    x = torch.as_tensor(X.astype(np.float32))
    theirs.update_topk_threshold(theirs.encode(x))
    theirs.topk_threshold *= 30
    theirs.save_inference_model(str(tmp_path))
    again = minisae.load(tmp_path)
    assert (again.variant, again.cfg.k, again.cfg.prefixes) == ("matryoshka", 2.6, (5, 11, D_SAE))
    with torch.no_grad():
        f = sae_lens.SAE.load_from_disk(str(tmp_path), device="cpu").encode(x).numpy()
    assert 0 < np.count_nonzero(f) < f.size / 2
    np.testing.assert_allclose(again.encode(x.numpy()), f, atol=1e-6)


def test_what_saelens_trains_as_matching_pursuit_is_read(torch, tmp_path):
    minisae, sae_lens = importlib.import_module("minisae"), pytest.importorskip("sae_lens")
    theirs = sae_lens.MatchingPursuitTrainingSAE(
        sae_lens.MatchingPursuitTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, max_iterations=None, decoder_init_norm=1.0)
    )
    x = torch.as_tensor(X.astype(np.float32))
    theirs.save_inference_model(str(tmp_path))
    again = minisae.load(tmp_path)
    assert again.variant == "matching_pursuit"
    assert again.cfg == matching_pursuit.Config(D_IN, D_SAE, D_IN, 1e-2, True, "positive", decoder="free")
    with torch.no_grad():
        f = sae_lens.SAE.load_from_disk(str(tmp_path), device="cpu").encode(x).numpy()
    np.testing.assert_allclose(again.encode(x.numpy()), f, atol=1e-5)
