"""End-to-end training: the slope of the spliced model's loss, and what it buys on the shipped model."""

import numpy as np
import pytest

import minisae
from minisae import end_to_end, models
from minisae.backend import to_device, to_host
from minisae.end_to_end import Splice, look, spliced_loss, windows_of
from minisae.errors import InputError
from minisae.interventions import effects, spliced
from minisae.metrics import cross_entropy, kl_divergence, log_softmax
from minisae.models import char_gpt
from minisae.sae import VARIANTS
from minisae.verify import check_gradients
from tests.costume import no_sync

TINY = char_gpt.Config(n_vocab=17, n_ctx=11, n_layer=2, d_model=6, n_head=2, d_mlp=13)
DOCUMENTS = [np.arange(101) * 7 % 17, np.arange(47) ** 2 % 17]
HOOK = "blocks.0.hook_resid_post"


def tiny(dtype="float64"):
    return models.CharGPT(TINY, char_gpt.init(TINY, np.random.default_rng(0), dtype=dtype))


def batch_of(model, splice, b=3):
    return look(model, *windows_of(DOCUMENTS, TINY.n_ctx, b, 5, 0), splice)


@pytest.mark.parametrize("loss", end_to_end.LOSSES)
@pytest.mark.parametrize("downstream", [0.0, 0.7])
@pytest.mark.parametrize("hook", [HOOK, "blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.0.hook_attn_out"])
def test_slope_by_finite_differences(loss, downstream, hook):
    model, splice = tiny(), Splice(hook, loss, downstream)
    batch = batch_of(model, splice)
    x_hat = np.random.default_rng(1).standard_normal((33, 6))
    grads = spliced_loss(model, batch, x_hat, splice).slopes
    [check] = check_gradients(
        lambda p: float(spliced_loss(model, batch, p["x_hat"], splice).value), {"x_hat": x_hat}, grads
    )
    assert check.error < 1e-6
    assert check.kinks <= 2


@pytest.mark.parametrize("loss", end_to_end.LOSSES)
def test_gradients_of_the_autoencoder_end_to_end(loss):
    """Through the model, the decoder and the encoder: every parameter."""
    model, splice, module = tiny(), Splice(HOOK, loss, 0.3), VARIANTS["relu"]
    batch = batch_of(model, splice)
    cfg = module.Config(6, 11, l1=0.2)
    params = module.init(cfg, np.random.default_rng(2), dtype=np.float64)
    params["b_enc"] += 0.1
    x = batch.activations[HOOK].reshape(33, 6)

    def terms_of(p):
        out, cache = module.forward(p, x, cfg)
        terms = module.objective(p, out, x, cfg) | {"mse": spliced_loss(model, batch, out.x_hat, splice)}
        return minisae.losses.gather(terms), cache

    (_, slopes, _), cache = terms_of(params)
    grads = module.backward(params, cache, cfg, slopes)
    for check in check_gradients(lambda p: float(terms_of(p)[0][0]), params, grads):
        assert check.error < 1e-6, check


def test_values_are_those_of_the_metrics():
    model = tiny()
    x_hat = np.random.default_rng(1).standard_normal((33, 6))
    kl, ce, both = (Splice(HOOK, *options) for options in (("kl",), ("ce",), ("kl", 0.5)))
    batch = batch_of(model, both)
    replace = {HOOK: lambda x: x_hat.reshape(x.shape)}
    later = "blocks.1.hook_resid_post"
    out = model.forward(batch.tokens, replace=replace, read=(later,))
    log_q = log_softmax(out.logits).reshape(33, -1)
    log_p = log_softmax(model.forward(batch.tokens).logits).reshape(33, -1)
    np.testing.assert_allclose(spliced_loss(model, batch, x_hat, kl).value, kl_divergence(log_p, log_q).mean())
    expected = cross_entropy(log_q, batch.targets.reshape(-1)).mean()
    np.testing.assert_allclose(spliced_loss(model, batch, x_hat, ce).value, expected)
    miss = out.activations[later] - model.forward(batch.tokens, read=(later,)).activations[later]
    extra = 0.5 * (miss**2).sum() / 33
    value = spliced_loss(model, batch, x_hat, both).value
    np.testing.assert_allclose(value, kl_divergence(log_p, log_q).mean() + extra)


@pytest.mark.parametrize("loss", end_to_end.LOSSES)
def test_on_a_device_the_same_bits_and_no_wait(loss):
    splice, ends = Splice(HOOK, loss, 0.5), []
    drawn, x_hat = windows_of(DOCUMENTS, TINY.n_ctx, 3, 5, 0), np.random.default_rng(1).standard_normal((33, 6))
    for on in ("numpy", "costume"):
        model = tiny()
        model = model._replace(params={name: to_device(p, on) for name, p in model.params.items()})
        tokens, targets, here = (to_device(a, on) for a in (*drawn, x_hat))
        with no_sync():
            term = spliced_loss(model, look(model, tokens, targets, splice), here, splice)
        ends.append((np.asarray(to_host(term.value)), to_host(term.slopes["x_hat"])))
    for got, expected in zip(*ends, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_the_activation_itself_costs_nothing():
    model, splice = tiny(), Splice(HOOK, "kl", 1.0)
    batch = batch_of(model, splice)
    term = spliced_loss(model, batch, batch.activations[HOOK].reshape(33, 6), splice)
    assert abs(term.value) < 1e-12
    assert abs(term.slopes["x_hat"]).max() < 1e-12


def test_trained_is_reproduced_and_scaled(tmp_path):
    """The same seed gives the same bits; an input scale changes nothing but the steps' sizes; it saves and loads."""
    settings = {"variant": "topk", "d_sae": 13, "k": 3, "steps": 40, "batch_size": 33, "lr": 1e-2}
    model, records = tiny("float32"), []
    options = {"init_rows": 99, "log_every": 10}
    saes = [
        end_to_end.train(model, DOCUMENTS, Splice(HOOK), **settings, options=options, hooks=[
            lambda run, record: records.append(record["kl"])
        ])
        for _ in range(2)
    ]  # fmt: skip
    assert records[3] < 0.7 * records[0]
    assert records[:4] == records[4:]
    for key, p in saes[0].params.items():
        np.testing.assert_array_equal(p, saes[1].params[key])
    scaled = end_to_end.train(
        model, DOCUMENTS, Splice(HOOK), **settings, options=options | {"input_scale": "mean_square"}
    )
    x = model.forward(DOCUMENTS[0][None, :11], read=(HOOK,)).activations[HOOK][0]
    assert effects(model, DOCUMENTS, HOOK, {"sae": spliced(scaled)})["sae"].kl < 0.5 * records[0]
    saes[0].save(tmp_path)
    again = minisae.load(tmp_path)
    assert again.metadata["end_to_end"]["loss"] == "kl"
    np.testing.assert_array_equal(again.encode(x), saes[0].encode(x))


def test_records_name_what_is_looked_at():
    """The parts of the loss, under their names; AuxK where it is asked for; a penalty stays."""

    def records(splice, **settings):
        found = []
        end_to_end.train(tiny("float32"), DOCUMENTS, splice, d_sae=13, steps=2, batch_size=33, **settings, hooks=[
            lambda run, record: found.append((run.cfg, record))
        ])  # fmt: skip
        return found[-1]

    few = {"init_rows": 33}
    cfg, found = records(Splice(HOOK, "ce", 0.5), variant="topk", k=3, options=few)
    assert cfg.auxk == 0
    assert set(found) == {"step", "rows", "lr", "loss", "ce", "downstream", "l0", "r2", "dead"}
    np.testing.assert_allclose(found["loss"], found["ce"] + found["downstream"], rtol=1e-6)
    cfg, found = records(Splice(HOOK), variant="topk", k=3, options=few | {"auxk": 0.125})
    assert cfg.auxk == 0.125
    assert set(found) == {"step", "rows", "lr", "loss", "kl", "auxk", "l0", "r2", "dead"}
    _, found = records(Splice(HOOK), variant="relu", l1=0.5, options=few)
    np.testing.assert_allclose(found["loss"], found["kl"] + found["l1"], rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in VARIANTS if not hasattr(VARIANTS[name], "split")])
def test_no_other_term_goes_by_the_target(name):
    """A variant is taken or refused, and refused is exactly one with a term that changes with the target."""
    rng, module = np.random.default_rng(0), VARIANTS[name]
    fields = module.Config._fields
    options = {"k": 3} if "k" in fields else {"splits": (2,)} if "splits" in fields else {}
    cfg = module.Config(d_in=6, d_sae=12, **options, **({"candidates": 5} if "candidates" in fields else {}))
    params = module.init(cfg, rng, sample=rng.standard_normal((37, 6)))
    x, y = rng.standard_normal((2, 37, 6))
    here, there = (module.objective(params, module.forward(params, x, cfg)[0], target, cfg) for target in (x, y))
    more = [term for term in here if term != "mse" and not np.array_equal(here[term].value, there[term].value)]
    assert set(more) == set(here) & set(end_to_end.MORE_ERRORS)
    settings = {"variant": name, "d_sae": 12, "steps": 1, "batch_size": 33, "options": {"init_rows": 33} | options}
    if more:
        with pytest.raises(InputError, match=f"got {name}, whose objective has {more[0]} too$"):
            end_to_end.train(tiny("float32"), DOCUMENTS, Splice(HOOK), **settings)
    else:
        assert end_to_end.train(tiny("float32"), DOCUMENTS, Splice(HOOK), **settings).variant == name


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"splice": Splice("blocks.7.hook_mlp_out")}, r"^hook: expected [^\n]* got 'blocks.7.hook_mlp_out'$"),
        ({"splice": Splice(HOOK, "mse")}, "^loss: expected one of kl, ce, got 'mse'$"),
        ({"splice": Splice(HOOK, "kl", -1.0)}, "^downstream: expected a number of at least 0, got -1.0$"),
        ({"splice": Splice("blocks.1.hook_resid_post", "kl", 1.0)}, "^downstream: expected 0 for the last hook "),
        ({"batch_size": 30}, "^batch_size: expected a multiple of the context 11, got 30$"),
        ({"options": {"ghost": True}}, "^ghost, resample: expected neither in end-to-end training"),
        ({"options": {"resample": "bricken"}}, "^ghost, resample: expected neither in end-to-end training"),
        ({"variant": "transcoder", "options": {"d_out": 2}}, "^variant: expected [^\n]*, got transcoder$"),
        ({"variant": "matryoshka", "k": 3}, "^variant: [^\n]*, got matryoshka, whose objective has nested too$"),
        ({"variant": "multi_topk", "k": 3}, "^variant: [^\n]*, got multi_topk, whose objective has multi too$"),
        ({"variant": "gated"}, "^variant: expected [^\n]*, got gated, whose objective has aux too$"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(change, line):
    settings = {"splice": Splice(HOOK), "variant": "relu", "d_sae": 13, "steps": 1, "batch_size": 33} | change
    with pytest.raises(InputError, match=line):
        end_to_end.train(tiny("float32"), DOCUMENTS, settings.pop("splice"), **settings)


def compared(seed, loss="kl"):
    """Effects on the shipped model of two TopK autoencoders of one size, k, steps and rows: local and end to end."""
    model, hook = models.load(), "blocks.2.hook_resid_post"
    texts = [model.encode_text(document.text) for document in models.documents()]
    training, held_out = texts[::6], [tokens[:640] for tokens in texts[1::2]]
    options = {"init_rows": 4096, "auxk": 0.0}
    settings = {"variant": "topk", "d_sae": 512, "k": 4, "steps": 100, "batch_size": 1024, "lr": 5e-3, "seed": seed}
    end = end_to_end.train(model, training, Splice(hook, loss), **settings, options=options)
    rows = np.concatenate([part.activations[hook] for part in models.activations(model, training, hooks=[hook])])
    local = minisae.train(rows, **settings, options=options)
    return effects(model, held_out, hook, {"local": spliced(local), "end to end": spliced(end)})


@pytest.mark.slow
def test_predicts_better_at_the_same_sparsity():
    """Seed 0 loses 0.28 nats a character instead of 0.40 (KL 0.30, not 0.41); asked is half of that difference."""
    found = compared(seed=0)
    lost = {name: effect.cross_entropy - found["clean"].cross_entropy for name, effect in found.items()}
    assert lost["end to end"] < 0.85 * lost["local"], lost
    assert found["end to end"].kl < 0.85 * found["local"].kl
