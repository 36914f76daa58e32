"""What the reference computes on a case: one flat dict of arrays, by quantity.

    x_hat, f, pre, …            every output of the variant's forward pass, at the configuration in force
    encode, decode              the inference code of the rows, and the reconstruction from it
    fired                       which latents fired, 0 or 1, ``(d_sae,)``
    loss/NAME                   each term of the objective, ``()``
    grads/ON/NAME               gradient of a parameter: ON is the output that the slope was put on, ``all`` (of them,
                                together) or ``objective``; but for the objective also that of the input ``x``
    steps/S/NAME                parameters and state after S training steps

Names are joined by ``/``. All of it is computed by the textbook formulas (``reference_ops``), in the inputs' dtype.
"""

from typing import Any

import numpy as np

from minisae import losses
from minisae.cache.stream import ArraySource
from minisae.ops import dense, reference_ops
from minisae.sae import variant
from minisae.train import Run, now, start, step
from minisae.verify.cases import MIDDLE, STEPS, Case
from minisae.verify.inputs import split_rows

Arrays = dict[str, np.ndarray]


def live_config(case: Case) -> Any:
    """Return the configuration in force: that of step 5 where it moves in training (p annealed, prefixes drawn)."""
    module, r = variant(case.variant), case.recipe
    if not hasattr(module, "at_step"):
        return case.cfg
    return module.at_step(case.cfg, step=MIDDLE, steps=r.steps, seed=r.seed)


def results(case: Case) -> Arrays:
    """Return every quantity of a case."""
    with reference_ops():
        return outputs(case) | gradients(case) | training(case)


def outputs(case: Case) -> Arrays:
    """Return outputs, inference code and its reconstruction, and the loss terms."""
    module, cfg, given = variant(case.variant), live_config(case), case.inputs
    x, y = split_rows(case.variant, given.rows, cfg)  # (n, d_in), (n, d_out)
    out, _ = module.forward(given.params, x, cfg, dead=given.dead)
    terms = module.objective(given.params, out, y, cfg, dead=given.dead)
    code = module.encode(given.params, x, cfg)  # (n, d_sae)
    found = {name: dense(value) for name, value in out._asdict().items() if value is not None}
    found |= {"encode": dense(code), "decode": module.decode(given.params, code)}
    found |= {"fired": module.fired_latents(out, cfg)}
    found |= {f"loss/{name}": np.asarray(term.value) for name, term in terms.items()}
    return {name: np.array(a, order="C") for name, a in found.items()}


def gradients(case: Case) -> Arrays:
    """Return the gradient of every parameter and of ``x``, from each slope alone, from all, and of the objective."""
    module, cfg, given = variant(case.variant), live_config(case), case.inputs
    x, y = split_rows(case.variant, given.rows, cfg)  # (n, d_in), (n, d_out)
    out, cache = module.forward(given.params, x, cfg, dead=given.dead)
    stored = {name: given.slopes[name] for name, value in out._asdict().items() if value is not None}
    terms = module.objective(given.params, out, y, cfg, dead=given.dead)
    _, slopes, direct = losses.gather(terms)
    each = {name: {name: slope} for name, slope in stored.items()}
    found = {}
    for on, put in (each | {"all": stored, "objective": slopes}).items():
        grads = module.backward(given.params, cache, cfg, put, want_x=on != "objective")
        for name, grad in grads.items():
            more = direct.get(name, 0) if on == "objective" else 0  # (...), the parameter's own shape
            found[f"grads/{on}/{name}"] = np.array(grad + more, order="C")
    return found


def begun(case: Case) -> Run:
    """Return a run at step 0 with the case's parameters, its dead latents idle for long enough to count as dead."""
    run = start(ArraySource(case.inputs.rows), case.variant, case.cfg, case.recipe)
    for name, p in case.inputs.params.items():
        run.params[name][...] = p
        if name in run.average:
            run.average[name][...] = p
    run.idle[...] = np.where(case.inputs.dead, case.recipe.dead_after, 0)
    return run


def batch(case: Case, number: int) -> np.ndarray:
    """Return the rows of a training step ``(n, d_in)``: two batches take turns."""
    return case.inputs.odd_rows if number % 2 else case.inputs.rows


def training(case: Case) -> Arrays:
    """Return parameters and state after 1, 3 and 10 steps."""
    run = begun(case)
    found: Arrays = {}
    for number in range(STEPS[-1]):
        run, _ = step(run, batch(case, number))
        if run.step in STEPS:
            found |= {f"steps/{run.step}/{name}": np.array(p, order="C") for name, p in run.params.items()}
    return found


def schedule(case: Case) -> list[dict[str, Any]]:
    """Return of each step the learning rate, the factor of λ, and what differs from the case's configuration."""
    run, found = begun(case), []
    for number in range(STEPS[-1]):
        cfg, lr, sparsity = now(run._replace(step=number))
        moved = {key: value for key, value in cfg._asdict().items() if value != getattr(case.cfg, key)}
        found.append({"lr": lr, "sparsity": sparsity, "config": moved})
    return found


def differ(one: Case, other: Case) -> bool:
    """Whether two cases have different results."""
    return any(apart(part(one), part(other)) for part in (outputs, gradients, training))  # the cheap ones first


def apart(ours: Arrays, theirs: Arrays) -> bool:
    """Whether two results differ by more than rounding."""
    if ours.keys() != theirs.keys():
        return True
    pairs = [(a, theirs[name]) for name, a in ours.items()]
    return not all(a.shape == b.shape and np.abs(a * 1.0 - b).max() <= 1e-9 * np.abs(b).max() for a, b in pairs)
