"""JumpReLU: pseudo-derivatives against their stated formulas, penalties by hand, and SAELens beside it."""

import doctest
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

import minisae
from minisae.errors import InputError
from minisae.losses import gather
from minisae.ops import dense, kernels
from minisae.ops.kernels import KERNELS, step_slope_ste
from minisae.recipe import Recipe
from minisae.sae import jump_penalties, jumprelu
from minisae.train import start, step
from minisae.verify import check_gradients
from tests.helpers import ArraySource, perturbed
from tests.sae.cases import Case

CASES = {
    "paper": Case(
        {"l1": 0.7, "first_threshold": 0.4, "bandwidth": 0.6, "threshold_as": "log", "log_unit": 1.3},
        {"sparsity_warmup": 3},
    ),
    "anthropic": Case(
        {
            "penalty": "tanh", "tanh_scale": 3.0, "pre_act": 0.3, "ste_reach": "everything", "first_threshold": 0.3,
            "bandwidth": 0.9, "decoder": "free", "kernel": "triangular",
        }
    ),
    "saelens": Case(
        {
            "penalty": "target_l0", "target": 2.5, "pre_act": 0.2, "pre_act_reach": "dead", "bandwidth": 0.7,
            "kernel": "gaussian", "first_threshold": 0.2, "below_zero": "clamp",
        }
    ),
    "dictionary_learning": Case(
        {
            "penalty": "target_l0", "target": 2.3, "target_of": "batch", "subtract_b_dec": False, "reduction": "mean",
            "bandwidth": 0.8, "kernel": "silverman", "first_threshold": 0.15, "step_sees": "code", "below_zero": "keep",
        }
    ),
    "overcomplete": Case(
        {
            "penalty": "l1", "penalty_reduction": "sum", "l1": 0.2, "step_sees": "positive_part", "at_threshold": "on",
            "kernel_scale": "overcomplete", "threshold_as": "log", "first_threshold": 0.3, "bandwidth": 0.8,
        }
    ),
}  # fmt: skip


def saelens_code(fields, arrays, pre):
    theta = arrays["threshold"]
    if fields.get("threshold_as") == "log":  # an architecture that SAELens refuses by name
        theta = fields["log_unit"] * np.exp(theta / fields["log_unit"])
    return np.maximum(pre, 0) * (pre > theta)


K = {
    "rectangle": lambda u: (np.abs(u) < 1 / 2) * 1.0,
    "triangular": lambda u: 2 * (1 - np.abs(2 * u)) * (np.abs(u) < 1 / 2),
    "epanechnikov": lambda u: 2 * 3 / 4 * (1 - (2 * u) ** 2) * (np.abs(u) < 1 / 2),
    "quartic": lambda u: 2 * 15 / 16 * (1 - (2 * u) ** 2) ** 2 * (np.abs(u) < 1 / 2),
    "cosine": lambda u: (1 + np.cos(np.pi * u)) / 2 * (np.abs(u) < 1),
    "gaussian": lambda u: norm.pdf(u, scale=1 / 2),
    "cauchy": lambda u: 2 / np.pi / (1 + (2 * u) ** 2),
    "silverman": lambda u: np.exp(-np.abs(2 * u) / 2**0.5) * np.sin(np.abs(2 * u) / 2**0.5 + np.pi / 4),
}
"""The kernels again, written with the half width that they have in overcomplete, each over its integral."""


OVERCOMPLETE = {"gaussian": 1 / 2, "silverman": 2.0}
"""Integrals of overcomplete's kernels that are not 1. All but the cosine are divided by the bandwidth once more."""


def theta_of(params, cfg):
    """The stored threshold, undone: a second text of the same formula."""
    held = params["threshold"]
    if cfg.threshold_as == "log":
        return np.exp(held / cfg.log_unit) * cfg.log_unit
    return np.where((held > 0) | (cfg.below_zero == "keep"), held, 0)


def edges_of(pre, theta, cfg):
    """The slopes that the step has for the code and for the gate, written out once more."""
    factor = 1.0
    if cfg.kernel_scale == "overcomplete" and cfg.kernel != "cosine":
        factor = OVERCOMPLETE.get(cfg.kernel, 1) / cfg.bandwidth
    first = np.where(pre > 0, pre, 0) if cfg.step_sees == "positive_part" else pre
    second = np.where(pre > theta, pre, 0) if cfg.step_sees == "code" else first
    return [factor * K[cfg.kernel]((z - theta) / cfg.bandwidth) / cfg.bandwidth for z in (first, second)], second


def held_fixed(module, at, x, cfg, dead):
    """Straight lines through gate and code at ``at``, with the slopes that the paper states; all else as it is."""

    def parts(params, seen):
        shift = params["b_dec"][..., None, :] if cfg.subtract_b_dec else 0
        return (seen - shift) @ params["W_enc"] + params["b_enc"][..., None, :]

    pre_0, theta_0 = parts(at, x), theta_of(at, cfg)[..., None, :]
    (edge, edge_gate), sees = edges_of(pre_0, theta_0, cfg)
    active, gate_0 = 1.0 * (pre_0 > theta_0), 1.0 * (sees > theta_0)

    def values(params, seen):
        pre = parts(params, seen)
        if cfg.threshold_as == "log":
            theta = theta_of(params, cfg)
        else:  # below 0 it may count as 0 and has its slope all the same
            theta = theta_0[..., 0, :] + params["threshold"] - at["threshold"]
        moved = (pre - pre_0) * (cfg.ste_reach == "everything") - (theta[..., None, :] - theta_0)
        gate = gate_0 + edge_gate * moved
        f = active * pre + theta_0 * edge * moved
        out = jumprelu.Out(f @ params["W_dec"] + params["b_dec"][..., None, :], f, pre, gate, theta)
        paid = out._replace(f=active * f) if cfg.penalty == "l1" else out  # with slope 0 at f = 0
        return out, module.objective(params, paid, x, cfg, dead=dead)

    return values


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_integrate_to_one_and_are_what_they_are(name):
    """By quadrature, and for the Cauchy tail by hand: beyond ±B it has 1/(πB)."""
    parts = [
        quad(lambda u: float(KERNELS[name](np.array(u))), a, a + 0.5, epsabs=1e-12)[0] for a in np.arange(0, 40, 0.5)
    ]
    tail = 1 / 2 - np.arctan(80) / np.pi if name == "cauchy" else 0
    assert sum(parts) + tail == pytest.approx(0.5, abs=1e-10)
    u = np.random.default_rng(0).standard_normal((7, 11))
    np.testing.assert_allclose(KERNELS[name](u), K[name](u), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(KERNELS[name](-u), KERNELS[name](u))
    assert KERNELS[name](u.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("name", KERNELS)
def test_the_slope_of_the_step_is_that_of_the_smoothed_step(name):
    """1[pre > θ] smoothed by the kernel is K's integral up to (pre − θ)/ε; its slope, by differences of quadratures."""
    bandwidth, h = 0.7, 1e-4
    pre, theta = np.array([[-0.61, 0.27, 0.5, 1.3]]), np.array([0.2, 0.1, 0.41, 0.9])

    def smoothed(theta):
        ends = (pre[0] - theta) / bandwidth
        return np.array([quad(K[name], 0, end, points=[-0.5, 0.5], epsabs=1e-13)[0] for end in ends])

    slope = step_slope_ste(pre, theta, kernel=name, bandwidth=bandwidth)
    np.testing.assert_allclose((smoothed(theta - h) - smoothed(theta + h)) / (2 * h), slope[0], atol=1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_the_threshold_follows_the_slope_of_the_expected_loss(name):
    """One latent, pre ~ N(0.3, 1): ∂θ of E[(f + b − y)² + λ 1[pre > θ]] is p(θ) ((b − y)² − (θ + b − y)² − λ).

    A million rows give the pseudo-derivative's expectation, a quadrature, within five of their standard errors. That
    expectation goes to the slope with the bandwidth: an eighth of it leaves less than a fifth, of Cauchy's tail a half.
    """
    theta, width, weight, n, offset = 0.8, 0.1, 0.37, 1_000_000, 0.2 - 0.45
    cfg = jumprelu.Config(1, 1, l1=weight, bandwidth=width, kernel=name, subtract_b_dec=False)
    params = {"W_enc": np.eye(1), "b_enc": np.zeros(1), "W_dec": np.eye(1), "b_dec": np.array([0.2])}
    params["threshold"] = np.array([theta])
    x = np.random.default_rng(1).normal(0.3, 1, (n, 1))
    out, cache = jumprelu.forward(params, x, cfg)
    slopes = gather(jumprelu.objective(params, out, np.full_like(x, 0.45), cfg))[1]
    got = jumprelu.backward(params, cache, cfg, slopes)["threshold"][0]

    def rows(z, width):
        return -K[name]((z - theta) / width) / width * (theta * 2 * (z * (z > theta) + offset) + weight)

    def expected(width):
        cuts = theta + width * np.array([-400, -40, -10, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 10, 40, 400])
        return sum(quad(lambda z: rows(z, width) * norm.pdf(z, 0.3), *ends, limit=200)[0] for ends in pairwise(cuts))

    assert got == pytest.approx(rows(x, width).mean(), rel=1e-10)
    assert abs(got - expected(width)) < 5 * rows(x, width).std() / n**0.5
    slope = norm.pdf(theta, 0.3) * (offset**2 - (theta + offset) ** 2 - weight)
    assert abs(expected(width / 8) - slope) < abs(expected(width) - slope) / (2 if name == "cauchy" else 5)
    assert abs(expected(width / 8) - slope) < 0.03 * abs(slope)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gradients_are_the_stated_formulas(case):
    """Every gradient for slopes on all outputs, written out once more, to 1e-12."""
    cfg, rng = jumprelu.Config(5, 11, **case.options), np.random.default_rng(2)
    params, x = perturbed(jumprelu, cfg, rng), rng.standard_normal((7, 5))
    out, cache = jumprelu.forward(params, x, cfg)
    d = {name: rng.standard_normal(dense(a).shape) for name, a in out._asdict().items()}
    got = jumprelu.backward(params, cache, cfg, d, want_x=True)
    theta, seen = theta_of(params, cfg), x - params["b_dec"] * cfg.subtract_b_dec
    pre = seen @ params["W_enc"] + params["b_enc"]
    (edge, edge_gate), _ = edges_of(pre, theta, cfg)
    assert (edge != 0).any()
    d_f = d["x_hat"] @ params["W_dec"].T + d["f"]
    through = edge * theta * d_f + edge_gate * d["gate"]
    d_pre = d_f * (pre > theta) + d["pre"] + through * (cfg.ste_reach == "everything")
    chain = theta / cfg.log_unit if cfg.threshold_as == "log" else 1
    expected = {
        "W_enc": seen.T @ d_pre,
        "b_enc": d_pre.sum(0),
        "W_dec": (pre * (pre > theta)).T @ d["x_hat"],
        "b_dec": d["x_hat"].sum(0) - (d_pre @ params["W_enc"].T).sum(0) * cfg.subtract_b_dec,
        "threshold": (d["theta"] - through.sum(0)) * chain,
        "x": d_pre @ params["W_enc"].T,
    }
    assert got.keys() == expected.keys()
    for name, grad in expected.items():
        np.testing.assert_allclose(got[name], grad, rtol=1e-12, atol=1e-12, err_msg=name)


def test_penalties_are_differentiable_in_what_they_are_given():
    """Of real-valued gates, codes and thresholds, by finite differences: nothing here is a pseudo-derivative."""
    rng = np.random.default_rng(3)
    p = {"gate": rng.random((7, 11)), "f": rng.random((7, 11)), "pre": rng.standard_normal((7, 11))}
    p |= {"theta": rng.random(11), "W_dec": rng.standard_normal((11, 5))}
    dead = np.arange(11) % 3 == 1
    terms = (
        lambda q: jump_penalties.l0(q["gate"], coefficient=0.7),
        *(
            lambda q, of=of: jump_penalties.target_l0(q["gate"], coefficient=0.7, target=2.3, of=of)
            for of in ("rows", "batch")
        ),
        lambda q: jump_penalties.tanh(q["f"], q["W_dec"], coefficient=0.7, scale=1.7),
        *(
            lambda q, who=who: jump_penalties.pre_act(q["pre"], q["theta"], q["W_dec"], coefficient=0.7, dead=who)
            for who in (None, dead)
        ),
    )
    for term in terms:
        found = term(p)
        checks = check_gradients(lambda q, term=term: float(term(q).value), p, {**found.slopes, **found.params})
        assert all(check.error < 1e-6 for check in checks), checks


def test_by_hand():
    """Two rows, two latents of identity weights and decoder norms 1 and 2; thresholds ½ and 1."""
    params = {
        "W_enc": np.eye(2), "b_enc": np.zeros(2), "W_dec": np.diag([1.0, 2.0]), "b_dec": np.array([0.0, 0.5]),
        "threshold": np.array([0.5, 1.0]),
    }  # fmt: skip
    x = np.array([[0.6, 1.0], [0.25, 2.0]])
    cfg = jumprelu.Config(2, 2, l1=3.0, bandwidth=0.4, subtract_b_dec=False)
    out, cache = jumprelu.forward(params, x, cfg)
    np.testing.assert_array_equal(out.gate, [[1, 0], [0, 1]])  # at the threshold itself nothing fires
    for f in (out.f, jumprelu.encode(params, x, cfg)):
        np.testing.assert_array_equal(dense(f), [[0.6, 0], [0, 2]])
    np.testing.assert_array_equal(jumprelu.fired_latents(out, cfg), [True, True])
    np.testing.assert_allclose(out.x_hat, [[0.6, 0.5], [0, 4.5]])
    # errors (0, −.5) and (−.25, 2.5): (.25 + .0625 + 6.25) / 2; two gates in two rows
    terms = jumprelu.objective(params, out, x, cfg)
    np.testing.assert_allclose([terms["mse"].value, terms["l0"].value], [3.28125, 3.0])
    # within ±.2 of the threshold: .6 and 1. d_f there: 0 and −.5 · 2; d_gate 1.5. −(½·0 + 1.5)/.4, −(1·(−1) + 1.5)/.4
    slopes = gather(terms)[1]
    np.testing.assert_allclose(jumprelu.backward(params, cache, cfg, slopes)["threshold"], [-3.75, -1.25])
    np.testing.assert_allclose(jumprelu.objective(params, out, x, cfg, sparsity=0.5)["l0"].value, 1.5)

    def value(name, sent=None, **options):
        return jumprelu.objective(params, out, x, cfg._replace(**options), dead=sent)[name].value

    # L0 is 1 in both rows; tanh of 4 · .6 · 1 and of 4 · 2 · 2; gaps .25 and 0, norms 1 and 2
    np.testing.assert_allclose(value("target_l0", penalty="target_l0", target=4.0), 3 * 0.75**2)
    np.testing.assert_allclose(value("tanh", penalty="tanh"), 3 * (np.tanh(2.4) + np.tanh(16)) / 2)
    np.testing.assert_allclose(value("pre_act", pre_act=0.5), 0.5 * 0.25 / 2)
    for dead, expected in (([True, False], 0.0625), ([False, True], 0)):
        np.testing.assert_allclose(value("pre_act", np.array(dead), pre_act=0.5, pre_act_reach="dead"), expected)


def test_rows_and_batch_have_different_targets():
    """L0 of 1 and 3 is 2 in the mean: the batch is content, the rows are not."""
    gate = np.array([[1.0, 0, 0, 0], [1, 1, 1, 0]])
    batch, rows = (jump_penalties.target_l0(gate, coefficient=1.0, target=2.0, of=of) for of in ("batch", "rows"))
    assert batch.value == 0
    assert not batch.slopes["gate"].any()
    np.testing.assert_allclose(rows.value, 0.25)
    np.testing.assert_allclose(rows.slopes["gate"][:, 0], [-0.25, 0.25])


def test_a_threshold_below_zero_counts_as_zero_and_goes_on_being_trained():
    rng = np.random.default_rng(4)
    cfg = jumprelu.Config(5, 11, bandwidth=0.8)
    params, x = perturbed(jumprelu, cfg, rng), rng.standard_normal((7, 5))
    params["threshold"][:] = -0.3
    out, cache = jumprelu.forward(params, x, cfg)
    np.testing.assert_array_equal(dense(out.f), np.maximum(out.pre, 0))
    grad = jumprelu.backward(params, cache, cfg, gather(jumprelu.objective(params, out, x, cfg))[1])["threshold"]
    np.testing.assert_array_equal(grad < 0, (np.abs(out.pre) < 0.4).any(axis=0))  # the penalty alone pushes θ up
    assert (grad < 0).any()


def test_as_itself_computes_the_same():
    rng = np.random.default_rng(6)
    cfg = jumprelu.Config(5, 11, **CASES["paper"].options)
    params, x = perturbed(jumprelu, cfg, rng), rng.standard_normal((7, 5))
    plain, own = jumprelu.as_itself(params, cfg)
    assert (own.threshold_as, jumprelu.to_saelens(own)) == ("itself", {"architecture": "jumprelu"})
    assert jumprelu.to_saelens(cfg)["architecture"] == "minisae.jumprelu"
    np.testing.assert_array_equal(dense(jumprelu.encode(plain, x, own)), dense(jumprelu.encode(params, x, cfg)))
    np.testing.assert_allclose(jumprelu.init(cfg, rng)["threshold"], 1.3 * np.log(0.4 / 1.3), rtol=1e-6)


def test_the_step_puts_thresholds_below_zero_to_zero_only_if_asked():
    held = np.array([-0.3, 0.0, 0.2])
    for how, threshold_as, expected in (
        ("zero", "itself", held), ("keep", "itself", held), ("clamp", "log", held), ("clamp", "itself", [0, 0, 0.2])
    ):  # fmt: skip
        params = {"threshold": held.copy()}
        jumprelu.before_step(params, jumprelu.Config(2, 3, below_zero=how, threshold_as=threshold_as))
        np.testing.assert_array_equal(params["threshold"], expected)


def test_training_calls_it():
    rng = np.random.default_rng(9)
    cfg = jumprelu.Config(5, 11, first_threshold=0.0, below_zero="clamp", decoder="free")
    run = start(ArraySource(rng.standard_normal((97, 5))), "jumprelu", cfg, Recipe(steps=3, lr=0.0))
    run.params["threshold"][:4] = -0.5
    run, _ = step(run, rng.standard_normal((31, 5)).astype(np.float32))
    assert not run.params["threshold"].any()


def test_the_examples_run():
    for module in (jumprelu, kernels):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0


def test_options_of_a_saelens_training_checkpoint():
    fields = {
        "architecture": "jumprelu", "l0_coefficient": 0.3, "jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 5,
        "jumprelu_bandwidth": 0.2, "jumprelu_init_threshold": 0.1, "pre_act_loss_coefficient": None,
        "jumprelu_ste_to_input": True,
    }  # fmt: skip
    expected = {
        "l1": 3.0, "penalty": "target_l0", "target": 5, "bandwidth": 0.2, "first_threshold": 0.1,
        "ste_reach": "everything", "pre_act_reach": "dead", "below_zero": "clamp",
    }  # fmt: skip
    assert jumprelu.from_saelens(fields) == expected
    assert jumprelu.from_saelens({"architecture": "jumprelu"}) == {}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"bandwidth": 0}, "bandwidth: expected a number above 0, got 0"),
        ({"target": -1.0}, "target: expected a number of at least 0, got -1.0"),
        ({"kernel": "box"}, f"kernel: expected one of {', '.join(KERNELS)}, got 'box'"),
        ({"kernel": {}}, f"kernel: expected one of {', '.join(KERNELS)}, got {{}}"),
        ({"penalty": "l2"}, "penalty: expected one of l0, tanh, target_l0, l1, got 'l2'"),
        ({"threshold_as": "log", "first_threshold": 0.0}, "first_threshold: expected a number above 0, got 0.0"),
    ],
)
def test_bad_configuration_is_one_line(change, line):
    with pytest.raises(InputError) as caught:
        jumprelu.check_config(jumprelu.Config(5, 11)._replace(**change))
    assert str(caught.value) == line


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["step", "tanh", "quadratic"])
@pytest.mark.parametrize("to_input", [False, True])
def test_sae_lens_itself(mode, to_input, tmp_path):
    """Loss terms and the gradient of every parameter against sae-lens in float64, with its fields read by us."""
    saes = pytest.importorskip("sae_lens.saes.jumprelu_sae", reason="sae-lens is not installed (extra peers)")
    from sae_lens.saes.sae import TrainStepInput

    torch = pytest.importorskip("torch")
    options = {
        "d_in": 5, "d_sae": 11, "jumprelu_bandwidth": 0.6, "jumprelu_sparsity_loss_mode": mode, "l0_coefficient": 0.7,
        "target_l0": 2.5, "pre_act_loss_coefficient": 0.3, "jumprelu_ste_to_input": to_input, "jumprelu_tanh_scale": 3,
    }  # fmt: skip
    theirs = saes.JumpReLUTrainingSAE(saes.JumpReLUTrainingSAEConfig(**options, dtype="float64", device="cpu"))
    own = jumprelu.from_saelens(theirs.cfg.to_dict())
    cfg = jumprelu.Config(5, 11, **own, decoder="free")
    rng = np.random.default_rng(8)
    params, x = perturbed(jumprelu, cfg, rng), rng.standard_normal((7, 5))
    params["threshold"][...] = np.abs(params["threshold"])  # sae-lens sets what is below 0 to 0 in place
    for name, p in params.items():
        setattr(theirs, name, torch.nn.Parameter(torch.from_numpy(p.copy())))
    dead = np.arange(11) % 3 == 1
    result = theirs.training_forward_pass(
        TrainStepInput(
            sae_in=torch.from_numpy(x), coefficients={"l0": 0.7}, dead_neuron_mask=torch.from_numpy(dead),
            n_training_steps=0, is_logging_step=False,
        )
    )  # fmt: skip
    result.loss.backward()
    out, cache = jumprelu.forward(params, x, cfg, dead=dead)
    terms = jumprelu.objective(params, out, x, cfg, dead=dead)
    total, slopes, direct = gather(terms)
    np.testing.assert_allclose(dense(out.f), result.feature_acts.detach().numpy(), atol=1e-13)
    np.testing.assert_allclose(terms[cfg.penalty].value, result.losses["l0_loss"].item(), rtol=1e-12)
    np.testing.assert_allclose(terms["pre_act"].value, result.losses["pre_act_loss"].item(), rtol=1e-12)
    np.testing.assert_allclose(total, result.loss.item(), rtol=1e-12)
    for name, grad in jumprelu.backward(params, cache, cfg, slopes).items():
        mine = grad + direct.get(name, 0)
        np.testing.assert_allclose(mine, getattr(theirs, name).grad.numpy(), atol=1e-12, err_msg=name)
    theirs.save_inference_model(str(tmp_path / "use"))
    theirs.save_model(str(tmp_path / "training"))
    for folder, kept in (("use", jumprelu.Config(5, 11, decoder="free")), ("training", cfg)):
        again = minisae.load(tmp_path / folder)
        assert (again.variant, again.cfg) == ("jumprelu", kept)
        np.testing.assert_allclose(again.encode(x), dense(out.f), atol=1e-6)
