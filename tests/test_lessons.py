"""The lessons run, draw what they say, and their exercises tell right from wrong.

Each lesson runs in a process of its own: this file, called with the lesson's path.
"""

import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from minisae.metrics import matched_cosine, mmcs

LESSONS = sorted((Path(__file__).parent.parent / "lessons").glob("[0-9][0-9]_*.py"))
BUDGET = 90
"""Processor seconds a lesson may take."""
SOLUTION = re.compile(r"^( +)# solution:\n.*?^\1# end\n", re.DOTALL | re.MULTILINE)
lessons = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def exercises(source):
    """The functions with a solution in them, by name, with a body that does nothing instead."""
    found = {}
    for cell in re.split(r"^# %%.*\n", source, flags=re.MULTILINE):
        for part in re.split(r"^(?=def )", cell, flags=re.MULTILINE):
            if SOLUTION.search(part):
                stub = SOLUTION.sub(r"\1pass\n", part)
                found[re.match(r"def (\w+)", stub)[1]] = stub
    return found


@lessons
def test_a_lesson_has_its_parts(path):
    source = path.read_text(encoding="utf-8")
    docstring = compile(source, path.name, "exec").co_consts[0]
    title = docstring.strip().splitlines()
    assert re.fullmatch(r"Lesson (\d+): .+", title[0])
    assert int(title[0].split()[1].rstrip(":")) == int(path.name[:2])
    assert title[1] == "=" * len(title[0])
    for part in ("**What you do.**", "**What you learn.**", "**What you need.**", "Source"):
        assert part in docstring, part
    assert source.count("\n# %%") >= 8
    assert source.count("\nassert ") >= 10
    assert source.count("show(fig") >= 3
    assert "torch" not in source


@lessons
def test_a_lesson_has_three_exercises_with_checks(path):
    source = path.read_text(encoding="utf-8")
    found = exercises(source)
    assert len(found) == 3
    assert source.count("# solution:\n") == 3
    assert [int(n) for n in re.findall(r"^# \*\*Exercise (\d)", source, re.MULTILINE)] == [1, 2, 3]
    for name, stub in found.items():
        assert f"\ndef check_{name}(answer):\n" in source
        assert f"\ncheck_{name}({name})\n" in source
        compile(stub, name, "exec")


@pytest.mark.slow
@lessons
def test_a_lesson_holds(path, tmp_path):
    environment = os.environ | {
        "MPLBACKEND": "Agg", "MINISAE_LESSON_OUT": str(tmp_path), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(path)],
        cwd=path.parent.parent, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) == path.read_text(encoding="utf-8").count('\nshow(fig, "') + len(CALLED.get(path.stem, ()))
    assert all(picture.stat().st_size > 10_000 for picture in pictures)


# ---- what follows runs in the lesson's own process ----

CALLED = {"07_dead_latents": ("2_remedies", "3_topk")}
"""Pictures that a function of the lesson draws."""


def same(drawn, wanted):
    np.testing.assert_allclose(np.asarray(drawn, float), np.asarray(wanted, float), rtol=1e-5, atol=1e-7)


def pictures_01(v, figures):
    for axes, p in zip(figures[0].axes, v["densities"], strict=False):
        same(axes.images[0].get_array().filled(0), v["samples"][p][:40])
    left, right = figures[1].axes
    for line, wanted in zip(
        left.lines, (v["strength"], v["answers"]["linear"][:, 1], v["answers"]["ReLU"][:, 1]), strict=True
    ):
        same(line.get_ydata(), wanted)
    for line, wanted in zip(right.lines[1:], v["together"], strict=True):
        same(line.get_ydata(), wanted)
    for k, (which, at) in enumerate(v["picked"]):
        W, b = which["W"][at], which["b"][at]
        same(figures[2].axes[2 * k].images[0].get_array(), W.T @ W)
        same(figures[2].axes[2 * k + 1].images[0].get_array()[:, 0], b)
    for axes, norms in zip(figures[3].axes, v["norms"], strict=False):
        same([bar.get_height() for bar in axes.patches], norms)
    for axes, W in zip(figures[4].axes, v["winners"], strict=True):
        arrows(axes, W)
    left, right = figures[5].axes
    arrows(left, v["W"])
    same(np.hypot(*left.lines[0].get_data()), np.full(361, v["radius"]))
    for line, wanted in zip(right.lines, (v["s"], v["reply"][:, 0], v["near"], v["far"]), strict=True):
        same(line.get_ydata(), wanted)
    [axes] = figures[6].axes
    for line, wanted in zip(axes.lines, (v["own"], v["same"], v["exact_loss"]), strict=True):
        same(line.get_xdata(), wanted)


def arrows(axes, W):
    """The arrows are the columns of W, turned."""
    [quiver] = (c for c in axes.collections if hasattr(c, "U"))
    drawn = np.stack([quiver.U, quiver.V])
    same(drawn.T @ drawn, W.T @ W)
    longest = np.argmax(np.hypot(*drawn).round(6))
    assert abs(drawn[0, longest]) < 1e-5 < drawn[1, longest]


def pictures_02(v, figures):
    [axes] = figures[0].axes
    for line, wanted in zip(axes.lines, (*v["costs"].values(), v["along"].loss), strict=False):
        same(line.get_ydata(), wanted)
    for axes, values in zip(figures[1].axes, (v["size"], v["bias"]), strict=True):
        for line, wanted in zip(axes.lines, (values[:, 1], values[:, 0]), strict=False):
            same(line.get_ydata(), wanted)
    for axes, wanted in zip(figures[2].axes, (v["paper"], v["truth"].labels, v["sgd"].labels), strict=True):
        same(axes.collections[0].get_array(), wanted)
        same(axes.lines[0].get_data(), v["wedge"])
        same(axes.lines[1].get_data(), v["lines"])
        p, r = axes.lines[1].get_data()
        same(r[: len(r) // 2], (2 + 2**0.5) / 8 * p[: len(p) // 2])
    left, right = figures[3].axes
    assert [line.get_ydata()[0] for line in left.lines[:3]] == [0, 0, 0]
    same(right.lines[-1].get_ydata(), v["entered"])
    [axes] = figures[4].axes
    same(axes.lines[0].get_ydata(), 2 / (4 - 5 * axes.lines[0].get_xdata()))
    same(axes.lines[1].get_ydata() * v["p_switch"], v["switch"] * v["paper_curve"])
    same(axes.lines[2].get_ydata(), [(2 + 2**0.5) / 8] * 2)
    for axes, wanted in zip(figures[5].axes, (v["paper_3"], v["truth_3"].labels), strict=True):
        same(axes.collections[0].get_array(), wanted)


def pictures_03(v, figures):
    run = v["run"]
    [axes] = figures[0].axes
    same(axes.lines[0].get_ydata(), run.d_star)
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == run.D.size
    for axes, W in zip(figures[1].axes, v["shown"].values(), strict=True):
        size, gram = (W**2).sum(axis=0), W.T @ W
        np.testing.assert_allclose(axes.lines[1].get_ydata(), size**2 / (gram**2).sum(axis=0), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(axes.lines[1].get_xdata(), np.diag(np.linalg.pinv(W) @ W), rtol=1e-3, atol=1e-5)
    drawn = [axes.images[0].get_array() for axes in figures[3].axes[:2]]
    same(drawn[1], drawn[0][np.ix_(v["in_order"], v["in_order"])])
    assert [text.get_text() for text in figures[3].axes[1].texts] == ["square antiprism", "pentagon", "digon"]
    for axes, (_, W, found) in zip(figures[4].axes, v["pictured"], strict=True):
        nodes = [len(line.get_xdata()) for line in axes.lines]
        assert sorted(nodes) == sorted(c.k for c in found.components)
        edges = np.abs(v["geometry"].cosines(W)) > 0.12
        inside = [edges[np.ix_(c.features, c.features)].sum() - c.k for c in found.components]
        assert len(axes.collections[0].get_segments()) == sum(inside) / 2
    left, right = figures[5].axes
    same(left.lines[0].get_data(), [v["per_dim"][v["hull_at"]], v["cost"][v["hull_at"]]])
    same(right.lines[3].get_data(), np.transpose(v["blocks"]))
    starts, pentagon, hexagon, curves = figures[6].axes
    same(starts.lines[0].get_xdata(), v["plane_loss"][20])
    same(starts.lines[0].get_ydata(), v["corners_kept"][20])
    arrows(pentagon, v["typical"])
    arrows(hexagon, v["hexagon"]["W"][0])
    for line, curve in zip(curves.lines, v["curves"].values(), strict=True):
        same(line.get_ydata(), curve / curve[1])
    for line, name in zip(figures[7].axes[0].lines, ("welch", "at_random", "of_models", "positive"), strict=True):
        same(line.get_data(), [v["numbers"], v[name]])


def pictures_04(v, figures):
    for axes, name in zip(figures[0].axes, ("together", "apart", "hexagon"), strict=False):
        arrows(axes, v[name].W[0])
    W = v["bases"].W[0]
    same(figures[0].axes[3].images[0].get_array(), np.abs(W.T @ W))
    [axes] = figures[1].axes
    for line, cosines in zip(axes.lines[:3], -np.sort(-v["strip"].cosines).T, strict=True):
        same(line.get_ydata(), cosines)
    _, losses, starts, *_ = figures[2].axes
    same(losses.lines[0].get_ydata()[::-1], v["pentagon"].loss)
    same(losses.lines[1].get_ydata(), v["digons"].loss)
    assert [line.get_xdata()[0] for line in losses.lines[2:]] == [v["crossing"], 0.4]
    same(starts.lines[0].get_data(), [v["tried"], v["share"]])
    top, bottom = figures[3].axes
    same(bottom.lines[0].get_ydata(), v["course"].loss[:, v["one"]])
    for line, feature in zip(top.lines[58:60], (v["partner"], v["newcomer"]), strict=True):
        same(line.get_ydata(), v["course"].D[:, v["one"], feature])
    assert [axes.get_title() for axes in figures[4].axes] == [f"step {s}" for s in v["turn"].steps[v["moments"]]]
    rise, held, both = (axes.lines[0] for axes in figures[5].axes)
    same(rise.get_ydata(), v["hurt"].relative)
    same(held.get_ydata(), v["hurt"].per_dim)
    same(both.get_data(), [v["hurt"].per_dim, v["hurt"].relative])
    for line, memory in zip((figures[6].axes[:2], figures[6].axes[3:5]), (v["memory"][1], v["memory"][7]), strict=True):
        for axes, points in zip(line, (memory.h.T, memory.W.T), strict=True):
            same(axes.lines[-1].get_xydata(), points)
    same(figures[6].axes[5].lines[-2].get_ydata(), v["new_loss"])


def pictures_05(v, figures):
    found = [{axes.get_ylabel(): axes for axes in figure.axes} for figure in figures]
    for axes, W in zip(figures[0].axes, (v["unprivileged"], *v["served"].W), strict=True):
        stacks(axes, W)
    by_title = {axes.get_title(): axes for figure in figures[1:3] for axes in figure.axes}
    stacks(by_title["W₁: what a neuron reads"], v["W_1"])
    stacks(by_title["W₂: what a neuron writes"], v["W_2"])
    stacks(by_title["W₁ at p = 0.03"], v["best_W_1"][3])
    same(found[2]["share of neurons\nwith one feature"].lines[0].get_ydata(), v["mono"])
    same(found[2]["halves computed"].lines[0].get_ydata(), v["halves"])
    wrong, missed, error = found[3]["share, error"].lines
    for line, wanted in ((wrong, [s.fpr for s in v["scores"]]), (error, [s.error for s in v["scores"]])):
        same(line.get_ydata(), wanted)
    same(missed.get_ydata(), [1 - s.tpr for s in v["scores"]])
    for axes, (name, at) in zip(figures[4].axes, v["moments"].values(), strict=False):
        same([line.get_xydata()[1] for line in axes.lines[:5]], v["directions"].T)
        drawn = np.concatenate([line.get_xydata() for line in axes.lines if line.get_linestyle() == "None"])
        rows = v["runs"][name].snapshots["W_dec"][at, v["k"]]
        same(np.sort(drawn[np.isfinite(drawn).all(axis=1)], axis=0), np.sort(rows, axis=0))
    for line, wanted in zip(found[4]["share of latents active"].lines, v["alive"].values(), strict=False):
        same(line.get_ydata(), wanted)
    same(found[5]["MMCS"].lines[0].get_ydata(), v["mmcs"])
    same(found[6]["MMCS"].lines[0].get_ydata(), v["of_toy"].mmcs[0])
    for line, wanted in zip(
        figures[7].axes[0].lines, (v["per_latent"], v["per_feature"], v["one_to_one"]), strict=True
    ):
        same(line.get_ydata(), wanted)
    for line, wanted in zip(figures[7].axes[1].lines, (v["mmcs"], v["matched"]), strict=True):
        same(line.get_ydata(), wanted)
    images = [axes.images[0].get_array() for axes in figures[8].axes]
    for (name, look), shown in zip(v["looks"].items(), (images[:3], images[3:]), strict=True):
        for image, wanted in zip(shown, look, strict=False):
            same(image.filled(0) if hasattr(image, "filled") else image, wanted[v["chosen"][name]].round(9))
    for axes, drawn in zip(figures[9].axes, ((v["oracle"], v["reached"]), (v["floor"], v["shrunk_fvu"])), strict=True):
        for line, wanted in zip(axes.lines, drawn, strict=True):
            same(line.get_ydata(), wanted)
    left, middle, right = figures[10].axes
    for axes, lines in (
        (left, [w.cosine for w in v["wrong"].values()]),
        (middle, (v["plus"].learned_mse, v["plus"].truth_mse)),
        (right, [w.overlap for w in v["wrong"].values()]),
    ):
        for line, wanted in zip(axes.lines, lines, strict=False):
            same(line.get_ydata(), wanted)


def stacks(axes, weights):
    """The bars are the weights but for the smallest."""
    shown = weights[np.abs(weights) > 0.01 * np.abs(weights).max()]
    same(np.sort([bar.get_height() for bar in axes.patches]), np.sort(shown))


def pictures_06(v, figures):
    top, bottom = figures[0].axes
    same([bar.get_height() for bar in top.patches], v["test"].f[v["row"]])
    same([bar.get_height() for bar in bottom.patches], v["test"].x[v["row"]])
    left, right = figures[1].axes
    same(left.lines[0].get_ydata(), [r["mse"] for r in v["records"]])
    same(left.lines[1].get_ydata(), [r["l1"] for r in v["records"]])
    same(right.lines[0].get_ydata(), [r["l0"] for r in v["records"]])
    cosines = figures[2].axes[1].images[0].get_array()
    assert cosines.shape == (40, 60)
    same(np.diag(cosines), v["pairs"].cosines)
    left, right = figures[3].axes
    for line, wanted in zip((*left.lines, right.lines[0]), (v["r2s"], v["coverages"], v["l0s"]), strict=True):
        same(line.get_xdata(), v["penalties"])
        same(line.get_ydata(), wanted)
    points, perfect, less = figures[4].axes[0].lines
    same(points.get_xdata(), v["true"].ravel()[v["shown"]])
    same(points.get_ydata(), v["got"].ravel()[v["shown"]])
    same(np.subtract(perfect.get_ydata(), perfect.get_xdata()), [0, 0])
    same(np.subtract(less.get_ydata(), less.get_xdata()), [-v["L1"] / 2] * 2)


def pictures_07(v, figures):
    for axes, step in zip(figures[0].axes, v["moments"], strict=True):
        assert sum(bar.get_height() for bar in axes.patches) == len(v["test"])
        assert axes.get_title().startswith(f"step {step}:")
    for figure, curves in ((figures[1], v["curves"]), (figures[2], v["topk_curves"])):
        [axes] = figure.axes
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(curves)
        for line, records in zip(axes.lines, curves.values(), strict=True):
            same(line.get_xdata(), [r["step"] for r in records])
            same(line.get_ydata(), [r["dead"] / 80 for r in records])
    [axes] = figures[3].axes
    assert [text.get_text() for text in axes.get_yticklabels()] == list(v["groups"])
    for line, values in zip(axes.lines[1:], v["groups"].values(), strict=True):
        same(line.get_xdata(), values)


def pictures_08(v, figures):
    left, right = figures[0].axes
    for line, x, y in zip(left.lines, (v["ks"], v["ks"], [16]), (v["fixed"], v["chosen"], [v["r2"]]), strict=True):
        same(line.get_xdata(), x)
        same(line.get_ydata(), y)
    assert sum(bar.get_height() for bar in right.patches) == (v["density"] > 0).sum()
    [axes] = figures[1].axes
    same([bar.get_width() for bar in axes.patches], list(v["ce"].values()))
    assert [text.get_text() for text in axes.get_yticklabels()] == list(v["ce"])
    [axes] = figures[2].axes
    same([bar.get_width() for bar in axes.patches], [row[i] for i in (1, 2) for row in v["table"].values()])
    [axes] = figures[3].axes
    same([bar.get_height() for bar in axes.patches], [pair[i] for i in (0, 1) for pair in v["control"].values()])


def pictures_09(v, figures):
    [axes] = figures[0].axes
    for line, wanted in zip(axes.lines[1:], v["answers"].values(), strict=True):
        same(line.get_ydata(), wanted)
    for axes, i in zip(figures[1].axes, (2, 1), strict=True):
        for line, (variant, l1s) in zip(axes.lines, v["LAMBDAS"].items(), strict=False):
            same(line.get_data(), np.transpose([[v["table"][variant, l1][j] for j in (0, i)] for l1 in l1s]))
    for axes, (true, got) in zip(figures[2].axes, v["seen"].values(), strict=True):
        same(axes.lines[0].get_data(), (true[:2000], got[:2000]))
    [axes] = figures[3].axes
    same([bar.get_width() for bar in axes.patches], [1 - r2 for r2 in v["bars"].values()])
    left, right = figures[4].axes
    same(left.lines[0].get_xdata(), [v["theta"]] * 2)
    tops = sum(bar.get_height() for bar in left.patches)
    assert tops == ((v["pre"] >= v["edges"][0]) & (v["pre"] <= v["edges"][-1])).sum()
    same(right.lines[0].get_ydata(), v["grid"] * (v["grid"] > v["theta"]))


def pictures_10(v, figures):
    for axes, values in zip(figures[0].axes, (v["PRE"], v["each"], v["together"]), strict=True):
        same(axes.images[0].get_array(), np.maximum(values, 0))
    left, right = figures[1].axes
    for i, variant in enumerate(("topk", "batch_topk")):
        same(left.lines[i + 1].get_ydata(), v["mean_active"][variant])
        same(right.lines[i].get_ydata(), [v["table"][variant, k][1] for k in v["KS"]])
    [axes] = figures[2].axes
    for line, wanted in zip(axes.lines, (v["smallest"], *v["thresholds"].values()), strict=True):
        same(line.get_ydata(), wanted)
    for axes, i in zip(figures[3].axes, (0, 1), strict=True):
        same([bar.get_height() for bar in axes.patches], [marks[i] for marks in v["shift"].values()])


def pictures_11(v, figures):
    [axes] = figures[0].axes
    for line, wanted in zip(axes.lines, (v["staircase"], v["world"]), strict=False):
        same(line.get_data(), (v["thetas"], wanted - wanted.mean()))
    [axes] = figures[1].axes
    for line, wanted in zip(axes.lines, (v["bias"], v["scatter"], v["total"]), strict=False):
        same(line.get_data(), (v["BANDWIDTHS"], wanted))
    [axes] = figures[2].axes
    for line, wanted in zip(axes.lines, v["paths"].values(), strict=False):
        same(line.get_ydata(), wanted)
    [axes] = figures[3].axes
    for line, kernel in zip(axes.lines, v["KERNELS"].values(), strict=True):
        same(line.get_ydata(), kernel(line.get_xdata()))


def pictures_12(v, figures):
    left, right = figures[0].axes
    for line, i in zip(left.lines[:2], (0, 1), strict=True):
        same(line.get_data(), (v["WIDTHS"], [v["found"][w][i] for w in v["WIDTHS"]]))
    same(left.lines[2].get_ydata(), list(v["fit"].values()))
    same(right.lines[0].get_ydata(), list(v["leaning"].values()))
    for axes, sae in zip(figures[1].axes, (v["plain"], v["nested"]), strict=True):
        same([bar.get_height() for bar in axes.patches], np.concatenate(v["silence"](sae)))
    for axes, cosines in zip(figures[2].axes, v["shown"].values(), strict=False):
        same(axes.images[0].get_array(), cosines)
    [axes] = figures[3].axes
    same([bar.get_width() for bar in axes.patches], [marks[i] for i in (3, 4) for marks in v["bars"].values()])


def pictures_13(v, figures):
    left, right = figures[0].axes
    same(left.lines[0].get_xdata(), list(v["answers"].values()))
    same([bar.get_width() for bar in right.patches], list(v["shares"].values()))
    [axes] = figures[1].axes
    for line, wanted in zip(axes.lines, v["ratio"].values(), strict=True):
        same(line.get_data(), (v["BATCHES"], wanted))
    for i, axes in enumerate(figures[2].axes):
        same([bar.get_width() for bar in axes.patches], [max(row[i], -0.3) for row in v["scores"].values()])
    [axes] = figures[3].axes
    for line, wanted in zip(axes.lines, v["in_units"].values(), strict=False):
        same(line.get_data(), (v["units"], wanted))
    for i, axes in enumerate(figures[4].axes):
        same([bar.get_width() for bar in axes.patches], [max(row[i], -1) for row in v["loaded"].values()])


def wrong_01(v):
    def mask_forgotten(W, b, x):
        h = np.maximum(x @ W.T, 0)
        z = h @ W + b
        d_z = 2 * (np.maximum(z, 0) - x) / len(x) * (z > 0)
        return h.T @ d_z + (d_z @ W.T).T @ x, d_z.sum(axis=0)

    def used_once(W, b, x):
        h = np.maximum(x @ W.T, 0)
        z = h @ W + b
        d_z = 2 * (np.maximum(z, 0) - x) / len(x) * (z > 0)
        return h.T @ d_z, d_z.sum(axis=0)

    def one_more(n_hid):
        W = np.concatenate([np.eye(n_hid), -np.eye(n_hid), np.full((n_hid, 1), n_hid**-0.5)], axis=1)
        return W, np.zeros(2 * n_hid + 1)

    return {
        "hidden_relu_gradient": [mask_forgotten, used_once],
        "without_error": [lambda n_hid: (np.eye(n_hid), np.zeros(n_hid)), one_more],
        "takes_over": [lambda best_loss: 0.1, lambda best_loss: 0.4],
    }


def wrong_02(v):
    def paper(p):
        return 2 * p / (4 - 5 * p)

    def patient(enters, p):
        return next(r for r in np.linspace(0.4 * p, paper(p), 200) if enters(p, r))

    return {
        "on_off_boundary": [paper, lambda p: p / (1 - p)],
        "true_boundary": [lambda enters, p: paper(p), lambda enters, p: (2 + 2**0.5) / 8 * p, patient],
        "both_hold": [lambda p: 0.4 * p, paper, lambda p: 0.6 * p],
    }


def wrong_03(v):
    def tegum(k, d):
        return v["polytopes"].cross_polytope(d)[:, :k]

    def at_random(k, d):
        return v["geometry"].unit_columns(np.random.default_rng(k).standard_normal((d, k)))

    def own_direction(W):
        return W / (W**2).sum(axis=0) * v["geometry"].dimensionality(W)

    def antiprisms_first(k, d):
        q, p = divmod(k - 2 * d, 2)
        return d - 2 * p - 3 * q, p, q

    return {
        "quiet": [tegum, at_random],
        "reader": [lambda W: W, own_direction],
        "cheapest": [antiprisms_first, lambda k, d: (d - 2 * (k - 2 * d), k - 2 * d, 0)],
    }


def wrong_04(v):
    def swapped(kind):
        return v["by_hand"]("anticorrelated" if kind == "correlated" else "correlated")

    return {
        "by_hand": [swapped, lambda kind: (np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]]), np.full(4, 0.01))],
        "importance_at_the_crossing": [lambda best_loss: v["crossing"], lambda best_loss: 0.5],
        "reach": [lambda norms, D: norms**2, lambda norms, D: 1 / np.sqrt(D), lambda norms, D: norms**2 / D],
    }


def wrong_05(v):
    def one_way(truth, learned):
        return mmcs(truth, learned)

    def other_way(truth, learned):
        return mmcs(learned, truth)

    def both_ways(truth, learned):
        return min(mmcs(truth, learned), mmcs(learned, truth))

    def in_order(truth, learned):
        return matched_cosine(truth, learned[: len(truth)])

    return {
        "design": [lambda score: (600, 0.12), lambda score: (500, 0.05), lambda score: (500, 0.25)],
        "better_start": [
            lambda W_enc, b_enc, W_dec: (W_enc, b_enc),
            lambda W_enc, b_enc, W_dec: (-W_dec.swapaxes(1, 2), b_enc),
        ],
        "fair_score": [one_way, other_way, both_ways, in_order],
    }


def wrong_06(v):
    def once(W, b, x, l1):
        pre = x @ W.T + b
        f = np.maximum(pre, 0)
        d_x_hat = 2 * (f @ W - x) / len(x)
        return f.T @ d_x_hat, ((d_x_hat @ W.T + l1 / len(x)) * (pre > 0)).sum(axis=0)

    def dense(x, f, W_dec, b_dec):
        return np.linalg.lstsq(W_dec.T, (x - b_dec).T, rcond=None)[0].T

    return {
        "tied_gradient": [once],
        "choose_l1": [lambda l0_at: 0.02, lambda l0_at: 2.0],
        "refit": [lambda x, f, W_dec, b_dec: f, lambda x, f, W_dec, b_dec: f / v["bias"], dense],
    }


def wrong_07(v):
    def all_of_them(params, dead, x):
        v["revive"](params, np.ones_like(dead), x)

    return {
        "cannot_learn": [lambda params, x: params["b_enc"] < 0],
        "revive": [lambda params, dead, x: None, all_of_them],
        "centre": [lambda x: x.mean(axis=0)],
    }


def wrong_08(v):
    def spliced_too(sae, latent):
        def replacement(x):
            f = sae.encode(x.reshape(-1, x.shape[-1]))
            f[:, latent] = 0
            return sae.decode(f).reshape(x.shape)

        return replacement

    return {
        "find_latent": [lambda f, is_it: int(f.sum(axis=0).argmax()), lambda f, is_it: 0],
        "without": [lambda sae, latent: lambda x: x, spliced_too],
        "fewest": [lambda recovers: 16, lambda recovers: 2],
    }


def wrong_09(v):
    def halves(a, price):
        return (a / 2, a / 2) if a**2 > price else (0, 0)

    def without_penalty(x, pre, aux, W_dec, l1):
        return (2 * (aux - x) / len(x) @ W_dec.T) * (pre > 0)

    def no_threshold(params, x):
        new = v["with_a_jump"](params, x)
        return new | {"threshold": np.zeros_like(new["threshold"])}

    def by_a_factor(params, x):
        return params | {"W_dec": params["W_dec"] * 1.3, "threshold": np.zeros_like(params["b_enc"])}

    return {
        "share": [halves, lambda a, price: (max(a - price / 2, 0), 0), lambda a, price: (a, 0)],
        "gate_slope": [without_penalty, lambda x, pre, aux, W_dec, l1: l1 / len(x) * (pre > 0)],
        "with_a_jump": [no_threshold, by_a_factor],
    }


def wrong_10(v):
    def each_row(pre, total):
        return v["dense"](v["top_k"](pre, max(1, total // len(pre))))

    def last_of_ties(pre, total):
        f = v["select"](pre[::-1, ::-1], total)
        return f[::-1, ::-1]

    def one_for_all(pre, k):
        kept = v["select"](pre, k * len(pre))
        return np.full(pre.shape[1], kept[kept > 0].min())

    return {
        "select": [each_row, last_of_ties],
        "repaired": [
            lambda theta, t: theta,
            lambda theta, t: theta / 0.63,
            lambda theta, t: theta / (1 - 0.99 ** (t - 1)),
        ],
        "for_each": [one_for_all, lambda pre, k: np.full(pre.shape[1], v["calibrated"])],
    }


def wrong_11(v):
    def on_f(pre, theta, d_f, d_gate, bandwidth):
        f = np.where(pre > theta, pre, 0)
        return -((np.abs(f - theta) < bandwidth / 2) / bandwidth * (theta * d_f + d_gate)).sum(axis=0)

    def twice(pre, theta, d_f, d_gate, bandwidth):
        return v["theta_slope"](pre, theta, d_f, d_gate, bandwidth) / bandwidth

    return {
        "theta_slope": [on_f, twice, lambda pre, theta, d_f, d_gate, bandwidth: -d_gate.sum(axis=0)],
        "kernel": [lambda u: np.maximum(1 - 2 * np.abs(u), 0), v["KERNELS"]["rectangle"], v["KERNELS"]["gaussian"]],
        "bandwidth_for": [lambda z, theta: 0.01, lambda z, theta: 1.0],
    }


def wrong_12(v):
    def own(parent, children):
        return np.vstack([parent, children])

    def how_often(code, feature, others):
        return np.array([(code[(feature > 0) & (o > 0)] == 0).mean() for o in others.T])

    def of_all_rows(code, feature, others):
        return np.array([(code[o > 0] == 0).mean() - (code[~(o > 0)] == 0).mean() for o in others.T])

    return {
        "absorbing": [own, lambda parent, children: np.vstack([parent, children - parent])],
        "silenced_by": [how_often, of_all_rows],
        "prefixes_for": [lambda levels: (52,), lambda levels: (16, 52), lambda levels: (4, 52)],
    }


def wrong_13(v):
    def saelens_way(p, scale):
        return p | {"W_enc": p["W_enc"] * scale, "W_dec": p["W_dec"] / scale, "b_dec": p["b_dec"] / scale}

    def threshold_left(p, scale):
        return p | {name: p[name] / scale for name in ("b_enc", "b_dec")}

    return {
        "translated": [lambda lam, n, d_in: lam, lambda lam, n, d_in: lam / n, lambda lam, n, d_in: lam / d_in],
        "fool": [
            lambda x: x,
            lambda x: x.mean(axis=0) + 0 * x,
            lambda x: 0 * x,
            lambda x: x + np.random.default_rng(0).standard_normal(x.shape),
        ],
        "folded": [lambda p, scale: p, saelens_way, threshold_left],
    }


def refuses(check, answer):
    """Whether a check fails on an answer; one that gives back nothing may fail on that, too."""
    try:
        check(answer)
    except (AssertionError, TypeError):
        return True
    return False


def examine(path):
    """Run a lesson within its budget, then look at its figures and its checks."""
    values = runpy.run_path(str(path))
    seconds = time.process_time()
    assert seconds <= BUDGET, f"{seconds:.0f} s of processor time"
    number = path.name[:2]
    if f"pictures_{number}" in globals():
        globals()[f"pictures_{number}"](values, [plt.figure(n) for n in plt.get_fignums()])
    for name, stub in exercises(path.read_text(encoding="utf-8")).items():
        scope = dict(values)
        exec(stub, scope)
        assert refuses(values[f"check_{name}"], scope[name]), f"check_{name} passes an empty {name}"
    for name, answers in globals().get(f"wrong_{number}", lambda v: {})(values).items():
        for i, answer in enumerate(answers):
            assert refuses(values[f"check_{name}"], answer), f"check_{name} passes wrong answer {i}"


if __name__ == "__main__":
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [folder for folder in sys.path if folder != here]  # tests/toy_models is not what lessons import
    examine(Path(sys.argv[1]))
