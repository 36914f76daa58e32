"""Gated on a case worked by hand, what the frozen decoder learns, and SAELens' own loss and gradients."""

import doctest

import numpy as np
import pytest

from minisae import losses
from minisae.errors import InputError
from minisae.ops import dense
from minisae.sae import gated
from tests.helpers import perturbed
from tests.sae.cases import Case

CASES = {
    "paper": Case({"l1": 0.3}, {"sparsity_warmup": 3}),
    "saelens": Case({"l1": 0.4, "l1_weight": "decoder_norm", "aux_decoder": "trained", "decoder": "free"}),
    "others": Case({"l1": 0.1, "subtract_b_dec": False, "reduction": "mean"}),
}
SAELENS_LOSSES = {"mse": "mse_loss", "l1": "l1_loss", "aux": "auxiliary_reconstruction_loss"}


def saelens_code(fields, arrays, pre):
    magnitude = pre * np.exp(arrays["r_mag"]) + arrays["b_mag"]
    return (pre + arrays["b_gate"] > 0) * np.maximum(magnitude, 0)


def held_fixed(module, at, x, cfg, dead):
    """The decoder of ``aux`` is a constant of the derivative where it is frozen."""

    def values(params, seen):
        out = module.forward(params, seen, cfg, dead=dead)[0]
        if cfg.aux_decoder == "frozen":
            out = out._replace(aux=dense(out.f_gate) @ at["W_dec"] + at["b_dec"][..., None, :])
        return out, module.objective(params, out, x, cfg, dead=dead)

    return values


def test_by_hand():
    """Two rows, d_in 2, d_sae 3. Centred rows are (1, 0) and (0, 2); the arithmetic is in the comments."""
    params = {
        "W_enc": np.array([[1.0, -1.0, 0.5], [0.0, 1.0, 0.5]]),
        "b_enc": np.array([0.5, 0.5, -0.75]),
        "r_mag": np.log([2.0, 1.0, 4.0]),
        "b_mag": np.array([-1.0, 0.5, 1.0]),
        "W_dec": np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]),
        "b_dec": np.array([1.0, -1.0]),
    }
    x = np.array([[2.0, -1.0], [1.0, 1.0]])
    cfg = gated.Config(2, 3, l1=0.5)
    out, cache = gated.forward(params, x, cfg)
    # z: (1, −1, .5) and (0, 2, 1)
    np.testing.assert_allclose(out.pre, [[1.5, -0.5, -0.25], [0.5, 2.5, 0.25]])
    # 2 · 1 − 1, −1 + .5, 4 · .5 + 1 and 2 · 0 − 1, 2 + .5, 4 · 1 + 1
    np.testing.assert_allclose(out.mag, [[1.0, -0.5, 3.0], [-1.0, 2.5, 5.0]])
    # the gate shuts out the 3 of the first row; the −1 of the second has its gate open
    np.testing.assert_allclose(dense(out.f), [[1.0, 0.0, 0.0], [0.0, 2.5, 5.0]])
    np.testing.assert_array_equal(gated.encode(params, x, cfg), out.f)
    # (1, 0) and (3, 2.5 + 4); of the gate: (1.5, 0) and (.5 + .15, 2.5 + .2); b_dec on top
    np.testing.assert_allclose(out.x_hat, [[2.0, -1.0], [4.0, 5.5]])
    np.testing.assert_allclose(out.aux, [[2.5, -1.0], [1.65, 1.7]])
    terms = gated.objective(params, out, x, cfg)
    np.testing.assert_allclose(terms["mse"].value, (3**2 + 4.5**2) / 2)
    np.testing.assert_allclose(terms["l1"].value, 0.5 * (1.5 + 3.25) / 2)
    np.testing.assert_allclose(terms["aux"].value, (0.5**2 + 0.65**2 + 0.7**2) / 2)
    _, slopes, _ = losses.gather(terms)
    grads = gated.backward(params, cache, cfg, slopes)
    # errors times 2/n: (0, 0), (3, 4.5) and (.5, 0), (.65, .7). Onto the latents that are open:
    d_mag = np.array([[0, 0, 0], [0, 4.5, 1.8 + 3.6]])
    d_pre = np.array([[0.5, 0, 0], [0.65, 0.7, 0.39 + 0.56]]) + 0.25 * (np.array(out.pre) > 0)
    np.testing.assert_allclose(grads["b_mag"], d_mag.sum(axis=0))
    np.testing.assert_allclose(grads["b_enc"], d_pre.sum(axis=0))
    np.testing.assert_allclose(grads["r_mag"], [0, 4.5 * 2, 5.4 * 4 * 1])
    np.testing.assert_allclose(grads["W_dec"], [[0, 0], [2.5 * 3, 2.5 * 4.5], [5 * 3, 5 * 4.5]])


@pytest.mark.parametrize("subtract", [True, False])
def test_a_frozen_decoder_learns_nothing_from_the_gates_reconstruction(subtract):
    rng = np.random.default_rng(0)
    cfg = gated.Config(5, 13, subtract_b_dec=subtract)
    params, x = perturbed(gated, cfg, rng), rng.standard_normal((7, 5))
    out, cache = gated.forward(params, x, cfg)
    slopes = gated.objective(params, out, x, cfg)["aux"].slopes
    assert slopes.keys() == {"aux"}
    grads = gated.backward(params, cache, cfg, slopes)
    assert not grads["W_dec"].any()
    assert grads["b_dec"].any() == subtract  # through the encoder's input only
    assert grads["b_enc"].any()
    assert not grads["r_mag"].any()
    assert not grads["b_mag"].any()
    trained = gated.backward(params, cache, cfg._replace(aux_decoder="trained"), slopes)
    np.testing.assert_allclose(trained["W_dec"], dense(out.f_gate).T @ slopes["aux"], rtol=1e-12)
    np.testing.assert_allclose(trained["b_dec"] - grads["b_dec"], slopes["aux"].sum(axis=0), rtol=1e-12)


def test_the_gate_learns_nothing_from_the_reconstruction():
    """The step's derivative is taken as 0: only ``f_gate`` teaches the gate's bias."""
    rng = np.random.default_rng(1)
    cfg = gated.Config(5, 13)
    params, x = perturbed(gated, cfg, rng), rng.standard_normal((7, 5))
    out, cache = gated.forward(params, x, cfg)
    grads = gated.backward(params, cache, cfg, gated.objective(params, out, x, cfg)["mse"].slopes)
    assert not grads["b_enc"].any()
    assert grads["b_mag"].any()


def test_both_paths_are_one_at_the_start():
    rng = np.random.default_rng(2)
    cfg = gated.Config(5, 13)
    out, _ = gated.forward(gated.init(cfg, rng), rng.standard_normal((7, 5), dtype=np.float32), cfg)
    np.testing.assert_array_equal(out.mag, out.pre)
    np.testing.assert_array_equal(dense(out.f), dense(out.f_gate))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"l1": -1.0}, "l1: expected a number of at least 0, got -1.0"),
        ({"aux_decoder": "detached"}, "aux_decoder: expected one of frozen, trained, got 'detached'"),
    ],
)
def test_bad_configuration_is_one_line(change, line):
    with pytest.raises(InputError) as caught:
        gated.check_config(gated.Config(5, 11)._replace(**change))
    assert str(caught.value) == line


def test_the_example_runs():
    result = doctest.testmod(gated)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("subtract", [True, False])
def test_sae_lens_itself(subtract):
    """Outputs, every loss term and every gradient in float64, with SAELens' two departures from the paper."""
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed (extra peers)")
    torch = pytest.importorskip("torch")
    from sae_lens.saes.sae import TrainStepInput

    rng = np.random.default_rng(3)
    cfg = gated.Config(5, 13, **CASES["saelens"].options, subtract_b_dec=subtract)
    params, x = perturbed(gated, cfg, rng), rng.standard_normal((7, 5))
    options = {"d_in": 5, "d_sae": 13, "dtype": "float64", "apply_b_dec_to_input": subtract, "l1_coefficient": cfg.l1}
    theirs = sae_lens.GatedTrainingSAE(sae_lens.GatedTrainingSAEConfig(**options))
    names = {gated.SAELENS_ARRAYS.get(key, key): key for key in params}
    assert names.keys() == dict(theirs.named_parameters()).keys()
    theirs.load_state_dict({name: torch.from_numpy(params[key].copy()) for name, key in names.items()})
    step = TrainStepInput(
        sae_in=torch.from_numpy(x), coefficients={"l1": cfg.l1}, dead_neuron_mask=None, n_training_steps=0,
        is_logging_step=False,
    )  # fmt: skip
    found = theirs.training_forward_pass(step)
    found.loss.backward()
    out, cache = gated.forward(params, x, cfg)
    np.testing.assert_allclose(dense(out.f), found.feature_acts.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(out.x_hat, found.sae_out.detach().numpy(), rtol=1e-12)
    terms = gated.objective(params, out, x, cfg)
    for key, name in SAELENS_LOSSES.items():
        np.testing.assert_allclose(terms[key].value, found.losses[name].item(), rtol=1e-12, err_msg=key)
    _, slopes, direct = losses.gather(terms)
    grads = gated.backward(params, cache, cfg, slopes)
    for name, key in names.items():
        expected = dict(theirs.named_parameters())[name].grad.numpy()
        np.testing.assert_allclose(grads[key] + direct.get(key, 0), expected, rtol=1e-11, atol=1e-13, err_msg=key)
    # The paper's decoder does not learn from aux: another gradient, and in the library it is one switch.
    frozen = gated.backward(params, cache, cfg._replace(aux_decoder="frozen"), slopes)
    assert np.abs(frozen["W_dec"] - grads["W_dec"]).max() > 0.1
