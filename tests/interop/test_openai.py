"""OpenAI's autoencoders: rows normalised one by one where the activation is TopK, in every place that reconstructs."""

import numpy as np
import pytest

import minisae
from minisae.backend import to_device, to_host
from minisae.cache import array_source
from minisae.errors import InputError
from minisae.evaluate import evaluate
from minisae.interventions import reconstruct
from minisae.sae import VARIANTS
from tests.costume import no_sync
from tests.interop.tiny import D, F, arrays, linears, relu, rows, same, top_k, write_state

K = 3


def state_of(a, **more):
    return linears(a) | {
        "pre_bias": a["b_dec"],
        "latent_bias": a["b_enc"],
        "stats_last_nonzero": np.arange(F),
        **more,
    }


def topk_file(path, k=K, after="ReLU"):
    """As their ``state_dict`` holds it; a nested dict is beyond our writer, so torch's absence costs this one."""
    torch = pytest.importorskip("torch", reason="torch is not installed (extra peers)")
    state = {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in state_of(arrays()).items()}
    torch.save(state | {"activation": "TopK", "activation_state_dict": {"k": k, "postact_fn": after}}, path)
    return path


def normalised(x):
    """Their LN: mean off, deviation of n − 1, 1e-5 added to it and not taken back."""
    mu, std = x.mean(axis=-1, keepdims=True), (x - x.mean(axis=-1, keepdims=True)).std(axis=-1, keepdims=True, ddof=1)
    return (x - mu) / (std + 1e-5), mu, std


def test_topk(tmp_path):
    a, x = arrays(), 3 * rows() + 1
    sae = minisae.load(topk_file(tmp_path / "x.pt"))
    seen, mu, std = normalised(x)
    f = top_k((seen - a["b_dec"]) @ a["W_enc"] + a["b_enc"], K)
    same(sae, x, f, (f @ a["W_dec"] + a["b_dec"]) * std + mu)
    assert sae.normalise == "layer_norm"
    np.testing.assert_allclose(sae.decode(sae.encode(x), x), sae.reconstruct(x), rtol=1e-5, atol=1e-6)


def test_evaluation_and_splicing_undo_the_normalisation(tmp_path):
    x = 3 * rows(n=31) + 1
    sae = minisae.load(topk_file(tmp_path / "x.pt"))
    x_hat = sae.reconstruct(x)
    np.testing.assert_array_equal(reconstruct(sae, x), x_hat)
    found = evaluate(sae, array_source(x)).numbers
    error = ((x - x_hat).astype(np.float64) ** 2).sum(axis=1).mean()
    assert found["squared_error_per_row"] == pytest.approx(error, rel=1e-6)


def test_it_is_kept_in_a_saved_folder(tmp_path):
    x = 3 * rows() + 1
    sae = minisae.load(topk_file(tmp_path / "x.pt"))
    sae.save(tmp_path / "sae")
    again = minisae.load(tmp_path / "sae")
    assert again.normalise == "layer_norm"
    np.testing.assert_array_equal(again.reconstruct(x), sae.reconstruct(x))


@pytest.mark.parametrize("how", ["layer_norm", "constant_norm_rescale"])
def test_rows_are_normalised_on_a_device_too(how):
    a, x = arrays(), 3 * rows() + 1
    params = {key: a[key] for key in ("W_enc", "b_enc", "W_dec", "b_dec")}
    sae = minisae.SAE("topk", VARIANTS["topk"].Config(D, F, K), params, {}, how)
    there = sae._replace(params={key: to_device(p, "costume") for key, p in params.items()})
    here = to_device(x, "costume")
    measured = evaluate(there, array_source(x)).numbers["squared_error_per_row"]
    assert measured == pytest.approx(evaluate(sae, array_source(x)).numbers["squared_error_per_row"], rel=1e-5)
    with no_sync():
        x_hat = there.decode(there.encode(here), here)
    np.testing.assert_allclose(to_host(x_hat), sae.reconstruct(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_host(there.reconstruct(here)), sae.reconstruct(x), rtol=1e-5, atol=1e-6)
    assert sae.reconstruct(x).dtype == np.float32


@pytest.mark.parametrize("named", [{}, {"activation": "ReLU"}])
def test_relu(named, tmp_path):
    a, x = arrays(), rows()
    sae = minisae.load(write_state(tmp_path / "x.pt", state_of(a, **named)))
    f = relu((x - a["b_dec"]) @ a["W_enc"] + a["b_enc"])
    same(sae, x, f, f @ a["W_dec"] + a["b_dec"])
    assert sae.normalise == "none"


@pytest.mark.parametrize("named", [{"activation": "Identity"}, {"activation": "TopK"}, {"activation": 3}])
def test_activations_that_are_no_variant_are_refused(named, tmp_path):
    with pytest.raises(InputError, match="expected activation ReLU, or TopK with its state, got"):
        minisae.load(write_state(tmp_path / "x.pt", state_of(arrays(), **named)))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"k": -1}, "expected a whole number above 0 for k, got '-1'"),
        ({"k": 1.5}, "expected a whole number above 0 for k"),
        ({"k": F + 1}, "k: expected at most d_sae = 13, got 14"),
        ({"after": "Identity"}, "expected ReLU after the TopK, got 'Identity'"),
        ({"k": None}, "expected a whole number above 0 for k"),
    ],
)
def test_a_selection_that_lies_is_refused(change, line, tmp_path):
    with pytest.raises(InputError, match=line):
        minisae.load(topk_file(tmp_path / "x.pt", **change))
