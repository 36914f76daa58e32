"""The pictures, by the data they draw, their axes and scales, and whether their words overlap or leave the picture."""

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import _pylab_helpers
from matplotlib.animation import writers
from matplotlib.colors import to_hex, to_rgba
from matplotlib.container import BarContainer
from matplotlib.quiver import Quiver
from matplotlib.text import Annotation, Text
from PIL import Image

from minisae.errors import InputError
from toy_models import plots, polytopes
from toy_models.plots import dynamics, frames, geometry, neurons, phases, style

RNG = np.random.default_rng(0)


def polygon(k, radius=1.0):
    angle = np.pi / 2 - 2 * np.pi * np.arange(k) / k
    return radius * np.stack([np.cos(angle), np.sin(angle)])


def antiprism():
    z, r, t = 3**-0.5, (2 / 3) ** 0.5, np.arange(4) * np.pi / 2
    upper = np.stack([r * np.cos(t), r * np.sin(t), z + 0 * t])
    lower = np.stack([r * np.cos(t + np.pi / 4), r * np.sin(t + np.pi / 4), -z + 0 * t])
    return np.concatenate([upper, lower], axis=1)


OCTAHEDRON = np.concatenate([np.eye(3), -np.eye(3)], axis=1)
CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]).T / 3**0.5


def sparse(n, n_feat, density):
    x = RNG.random((n, n_feat)) / density
    return np.where(x < 1, x, 0.0)


def draw_batch():
    drawn, axes = plots.figure(9, 3.2, columns=4)
    for ax, p in zip(axes, (1, 0.3, 0.1, 0.02), strict=True):
        plots.batch_heatmap(sparse(41, 19, p), ax, density=p, bar=ax is axes[-1])
    return drawn


def draw_signed_batch():
    drawn, (ax,) = plots.figure(4, 3)
    plots.batch_heatmap(sparse(41, 19, 0.3) * RNG.choice([-1, 1], (41, 19)), ax)
    return drawn


def draw_gram():
    drawn, axes = plots.figure(9, 3.6, columns=4, widths=(20, 2, 20, 2))
    plots.gram_and_bias(np.eye(5, 19), np.full(19, 0.2), axes[:2], limit=1.2, title="linear", bar=False)
    plots.gram_and_bias(polygon(5), np.full(5, -0.24), axes[2:])
    return drawn


def draw_bars():
    drawn, axes = plots.figure(6, 5, rows=3)
    for ax, p in zip(axes, (1, 0.1, 0.01), strict=True):
        plots.feature_bars(RNG.random(19), 1.5 * RNG.random(19), ax, n_hid=5, density=p, bar=ax is axes[1])
    return drawn


def draw_arrows():
    drawn, axes = plots.figure(10, 3, columns=4)
    for ax, k in zip(axes[:3], (2, 4, 5), strict=True):
        plots.feature_arrows(polygon(k), ax, importance=0.9 ** np.arange(k), title=f"p = {1 / k:.2f}")
    plots.importance_bar(0.9 ** np.arange(5), axes[:3])
    plots.feature_arrows(polygon(6), axes[3], groups=[0, 0, 1, 1, 2, 2], title="3 × 2 correlated")
    return drawn


def draw_response():
    drawn, (ax,) = plots.figure(5, 3.4)
    x, others = np.linspace(0, 1, 11), np.array([0, 0.25, 0.5])
    plots.response_curves(x, np.maximum(x - others[:, None], 0), others, ax)
    return drawn


def draw_phases():
    drawn, axes = plots.figure(12, 3.8, columns=2)
    p, r = np.geomspace(0.01, 1, 23), np.geomspace(0.1, 10, 19)
    labels = np.where(p[None] < 0.4, 1, np.where(r[:, None] < 1, 0, 2))
    line = np.stack([p, 0.427 * p])
    curves = {"2p/(4 − 5p)": line, "0.427 p": 2 * line}
    for ax, title in zip(axes, ("theory", "exact"), strict=True):
        plots.phase_map(labels, p, r, ax, curves=curves, title=title, legend=ax is axes[-1])
    return drawn


def draw_slice():
    drawn, (ax,) = plots.figure(7, 4)
    p = np.linspace(0.02, 0.8, 79)
    ignored, pair, free = p / 3 - p**2 / 4, p**2 / 3, p**2 * (32 - 25 * p) / (24 * (4 - 3 * p))
    points = {"4/7": (4 / 7, (4 / 7) ** 2 / 3), "0.582": (0.5822, 0.5822 / 3 - 0.5822**2 / 4)}
    losses = {"one ignored": ignored, "antipodal": pair, "antipodal, free norm": free}
    plots.phase_slice(p, losses, ax, exact=np.minimum(ignored, free), crossings=points)
    return drawn


INVERSE = np.array([1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 10, 100])


def draw_dimensionality():
    drawn, (ax,) = plots.figure(8, 4.6)
    D = np.where(RNG.random((10, 31)) < 0.7, np.minimum(1 / INVERSE, 0.5)[:, None], 0)
    plots.dimensionality_scatter(INVERSE, D, ax, D_star=np.minimum(1, 1.2 / INVERSE))
    return drawn


def draw_graphs():
    drawn, axes = plots.figure(12, 4.6, columns=3)
    digons = np.kron(np.eye(10), [[1, -1], [-1, 1]])
    pairs = [[2 * i, 2 * i + 1] for i in range(10)]
    plots.feature_graph(digons, pairs, ["digon"] * 10, axes[0], residuals=[0.01] * 10, title="1/(1 − S) = 3")
    W = np.zeros((5, 13))
    W[:2, :5], W[2:, 5:] = polygon(5), antiprism()
    parts = [list(range(5)), list(range(5, 13))]
    plots.feature_graph(W.T @ W, parts, ["pentagon", "square antiprism"], axes[1], legend=False)
    plots.feature_graph(np.eye(1), [[0]], ["point"], axes[2], legend=False)
    return drawn


def draw_hull():
    drawn, (ax,) = plots.figure(6.4, 4.2)
    names = ["point", "triangle", "digon", "pentagon", "square antiprism", "cube", "hexagon"]
    per_dim, energy = [1, 1.5, 2, 2.5, 8 / 3, 8 / 3, 3], [0, 0, 0, 0.478, 0.681, 0.889, 1.5]
    plots.packing_hull(per_dim, energy, names, ax, hull=[0, 2, 3, 4, 6])
    return drawn


def draw_odd():
    drawn, axes = plots.figure(11, 4.2, columns=2)
    ratio = np.geomspace(0.2, 3, 7)
    W = polygon(5) * np.where(np.arange(5) == 0, 1 + 0.1 * np.log(ratio)[:, None], 1)[:, None]
    W[0, :, 0] = 0
    plots.odd_feature_frames(W, ratio, axes[0])
    digons = np.where(ratio < 1.5, 0.01 * ratio**0.5, np.nan)
    losses = {"pentagon": 0.007 * ratio**0.2, "two digons": digons}
    plots.branch_losses(ratio, losses, axes[1], crossings={"exact 0.257": 0.257, "paper 0.4": 0.4})
    return drawn


def draw_correlation():
    drawn, axes = plots.figure(9, 3.4, columns=2)
    plots.set_blocks(np.concatenate([np.eye(10), np.eye(10)], axis=1), axes[0], sets=[10, 10])
    density = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.5])
    cosines = np.where(np.arange(3) < np.array([1, 1, 1, 2, 2, 3])[:, None], 1, 0.3)
    plots.collapse_strip(density, cosines, axes[1])
    return drawn


STEPS = np.arange(0, 801, 10)


def draw_levels():
    drawn, axes = plots.figure(8, 5.4, rows=2, heights=(2, 1))
    D = np.where(np.arange(7) < 4, 0.5, 0) * (STEPS > 0)[:, None]
    D[:, 0] = np.where(STEPS < 400, 0.4, 0.5)
    plots.levels_over_time(STEPS, D, 0.1 + np.exp(-STEPS / 50), axes, highlight=[0])
    return drawn


def draw_snapshots():
    drawn, axes = plots.figure(9, 3.4, columns=3, three_d=True)
    path = np.stack([0.3 * OCTAHEDRON + 0.2 * RNG.standard_normal((3, 6)), 0.8 * OCTAHEDRON, OCTAHEDRON])
    plots.snapshots(path, [0, 100, 6000], axes, groups=[0, 0, 0, 1, 1, 1])
    return drawn


def draw_flat_snapshots():
    drawn, axes = plots.figure(6, 3, columns=2)
    plots.snapshots(np.stack([polygon(5), 2 * polygon(5)]), [0, 10], axes, groups=[0, 0, 0, 1, 1])
    return drawn


def draw_attack():
    drawn, axes = plots.figure(12, 3.6, columns=3)
    plots.vulnerability(INVERSE, 1 + 0.4 * (INVERSE - 1), INVERSE**0.7, axes)
    return drawn


def draw_stacks():
    drawn, axes = plots.figure(10, 3.2, columns=3)
    plots.neuron_stacks(np.eye(5, 11), axes[0], title="p = 0.75", legend=False)
    plots.neuron_stacks(RNG.standard_normal((5, 11)), axes[1], title="p = 0.03")
    plots.neuron_stacks(RNG.standard_normal((13, 41)), axes[2], order=[3, 1, 2])
    return drawn


def draw_wiring():
    drawn, axes = plots.figure(11, 7, rows=2, columns=2)
    W_1 = np.kron(np.eye(3), [[1.0], [-1.0]])
    plots.wiring(W_1, np.abs(W_1).T, axes[0])
    share = {"read": np.array([1, 0.97, 0.6, 0]), "write": np.array([1, 0.99, 0.7, 0.1])}
    plots.monosemantic_fraction([1, 0.3, 0.1, 0.01], share, axes[1])
    plots.in_and_out(W_1, np.abs(W_1).T, axes[2:])
    return drawn


def draw_recovery():
    drawn, axes = plots.figure(9, 3.6, columns=2)
    plots.recovered_directions(polygon(5).T, 1.17 * polygon(5), axes[0], dead=[0, 0, 1, 0, 0], title="none")
    runs = {"none": np.full(len(STEPS), 0.8), "simple": 1 - 0.2 * np.exp(-STEPS / 100)}
    plots.active_fraction(STEPS, runs, axes[1], resampled=[200, 400])
    return drawn


L1 = np.array([0.003, 0.01, 0.03, 0.1, 0.2, 0.8])
MMCS = np.array([0.616, 0.691, 0.770, 0.987, 0.999, 0.964])


def draw_sweep():
    drawn, axes = plots.figure(6.5, 5, rows=2)
    plots.sparsity_sweep(L1, MMCS, 1 / L1 / 7, L1 / 2, axes, random_mmcs=0.412)
    return drawn


def draw_absorption():
    drawn, axes = plots.figure(12, 3.4, columns=3)
    encoder, decoder = np.eye(4), np.eye(4)
    encoder[0, 1], decoder[1, :2] = -0.7, 0.7071
    plots.cosine_maps(encoder, decoder, axes[:2], title="hierarchical")
    plots.activation_table([[0.995, 0], [0, 1.409], [0, 0]], ["parent only", "parent\nand child"], axes[2])
    return drawn


def draw_wrong_l0():
    drawn, axes = plots.figure(12, 3.8, columns=3)
    cosines = {"corr. +0.4": [0.36, 0.275, 0, 0], "corr. −0.4": [-0.3, -0.25, 0, 0], "corr. 0": [0, 0, 0, 0]}
    overlap = {"corr. +0.4": [0.159, 0.122, 0.008, 0]}
    plots.wrong_l0(
        [1.5, 1.8, 2, 2.2], cosines, [0.19, 0.06, 0.02, 0.02], [0.33, 0.11, 0.02, 0.02], overlap, axes, true_l0=2
    )
    return drawn


SIZES = np.array([3, 5, 15, 200, 1000])
TRAIN, TEST = np.array([0, 0, 0.25, 0.81, 0.96]), np.array([1.12, 0.99, 1.01, 7.21, 0.98])


def draw_descent():
    drawn, axes = plots.figure(11, 7, rows=2, columns=2)
    plots.rings(8 * polygon(5).T, 0.3 * RNG.standard_normal((2, 67)), axes[:2], title="T = 5")
    plots.data_dimensionality(SIZES, [np.full(t, 2 / t) for t in SIZES], axes[2])
    plots.double_descent(SIZES, TRAIN, TEST, axes[3])
    return drawn


def draw_limits():
    drawn, axes = plots.figure(13, 3.6, columns=3)
    k = np.arange(7)
    plots.oracle_bound(k, (6 - k) * (7 - k) * (8 - k) / 336, axes[0], measured=[[1.5, 2.4], [0.52, 0.31]])
    plots.shrinkage_floor(L1, 3 * (L1 / 2) ** 2, axes[1], measured=[[0.01, 0.1], [0.001, 0.01]])
    sizes = np.array([48, 64, 128, 256])
    welch = np.sqrt((sizes - 32) / (32 * (sizes - 1)))
    plots.coherence_bounds(sizes, welch, axes[2], random=welch + 0.4, trained=welch + 0.2, n_hid=32)
    return drawn


GALLERY = {name.removeprefix("draw_"): draw for name, draw in globals().items() if name.startswith("draw_")}


@pytest.fixture(scope="module")
def gallery():
    """All pictures, each drawn once."""
    return {name: draw() for name, draw in GALLERY.items()}


@pytest.fixture(scope="module", params=GALLERY)
def picture(request, gallery):
    return gallery[request.param]


LAID_OUT = ("slice", "hull", "odd", "correlation", "stacks")
"""Pictures with the most words; finding the layout of all takes seconds."""


@pytest.fixture(
    scope="module", params=[n if n in LAID_OUT else pytest.param(n, marks=pytest.mark.slow) for n in GALLERY]
)
def laid_out(request, gallery):
    drawn = gallery[request.param]
    drawn.draw_without_rendering()
    return drawn


def words(drawn):
    """Every upright word that is drawn, with its box; numbers of ticks outside the axis are not drawn."""
    texts = set(drawn.findobj(Text))
    for ax in drawn.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            hidden = [t for t in ticks if not ax.axison or not low <= t.get_loc() <= high]
            texts -= {label for t in hidden for label in (t.label1, t.label2)}
            texts -= set() if ax.axison else {axis.label, axis.offsetText}
    upright = (t for t in texts if t.get_visible() and t.get_text().strip() and t.get_rotation() in (0, 90))
    boxes = ((t.get_text(), Text.get_window_extent(t)) for t in upright)
    return [(text, box) for text, box in boxes if box.width > 0]


def overlaps(a, b):
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1


def solid(drawn):
    return any(ax.name == "3d" for ax in drawn.axes)


def test_no_word_lies_on_another_or_outside(laid_out):
    placed = words(laid_out)
    width, height = laid_out.bbox.size
    outside = [t for t, b in placed if b.x0 < -1 or b.y0 < -1 or b.x1 > width + 1 or b.y1 > height + 1]
    assert placed
    if not solid(laid_out):
        assert not outside
        assert not [(s, t) for (s, a), (t, b) in combinations(placed, 2) if overlaps(a, b)]


def test_a_planted_overlap_is_found():
    drawn, (ax,) = plots.figure(4, 3)
    ax.text(0.5, 0.5, "one")
    ax.text(0.52, 0.5, "two")
    drawn.draw_without_rendering()
    assert any(overlaps(a, b) for (_, a), (_, b) in combinations(words(drawn), 2))


def test_every_axis_is_named(picture):
    for ax in picture.axes:
        bar = ax.get_label() == "<colorbar>"
        shared = not any(label.get_visible() and label.get_text() for label in ax.get_xticklabels())
        schematic = not ax.axison or not any(spine.get_visible() for spine in ax.spines.values())
        if not schematic:
            assert ax.get_ylabel() or ax.get_title() == "b"
            assert bar or shared or ax.get_xlabel()
        if solid(picture):
            assert ax.get_zlabel()


def test_pictures_leave_pyplot_alone(picture):
    assert not _pylab_helpers.Gcf.get_all_fig_managers()


def test_legends_stand_outside_the_data(laid_out):
    for ax in laid_out.axes:
        if ax.get_legend() is not None:
            inner, box = ax.get_window_extent(), ax.get_legend().get_window_extent()
            assert box.x0 >= inner.x1 - 1 or box.y0 >= inner.y1 - 1 or box.y1 <= inner.y0 + 1


def one(width=4.0, height=3.0):
    drawn, (ax,) = plots.figure(width, height)
    return drawn, ax


def grey(colour):
    return float(np.dot(to_rgba(colour)[:3], [0.2126, 0.7152, 0.0722]))


def test_styles_differ_without_colour():
    assert len({(repr(s.dash), s.marker) for s in plots.STYLES}) == len(plots.STYLES)
    assert len({s.marker for s in plots.STYLES}) == len({repr(s.dash) for s in plots.STYLES}) == len(plots.STYLES)
    shades = [grey(colour) for _, colour, _ in phases.PHASES]
    assert shades[0] - shades[1] > 0.15
    assert shades[1] - shades[2] > 0.15
    assert all(abs(grey(fill) - grey(ink)) > 0.3 for _, fill, ink in phases.PHASES)


def test_feature_fills_are_distinct():
    for count in (5, 35, 100):
        fills = [(to_hex(colour), hatch) for colour, hatch in neurons.feature_fills(count)]
        assert len(set(fills)) == count


# ---------------------------------------------------------------- 1 to 4


def test_batch_masks_what_is_off():
    x = sparse(41, 19, 0.1)
    x[7] = 0
    drawn, ax = one()
    assert plots.batch_heatmap(x, ax, density=0.1) is ax
    image = ax.images[0]
    np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()), x == 0)
    np.testing.assert_array_equal(image.get_array().filled(0), x)
    assert image.get_clim() == (0, 1)
    blank = np.mean(~x.any(axis=1))
    assert ax.get_title() == f"p = 0.1\n{blank:.0%} of rows blank"
    assert len(drawn.axes) == 2


@given(st.integers(1, 7), st.integers(2, 11), st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_gram_is_drawn_on_a_symmetric_scale(n_hid, n_feat, seed):
    rng = np.random.default_rng(seed)
    W, b = rng.standard_normal((n_hid, n_feat)), rng.standard_normal(n_feat)
    _, axes = plots.figure(4, 3, columns=2)
    left, right = plots.gram_and_bias(W, b, axes, bar=False)
    np.testing.assert_allclose(left.images[0].get_array(), W.T @ W)
    np.testing.assert_allclose(right.images[0].get_array()[:, 0], b)
    low, high = left.images[0].get_clim()
    assert -low == high == max(np.abs(W.T @ W).max(), np.abs(b).max())
    assert right.images[0].get_clim() == (low, high)
    dashes = {tuple(np.round(s.mean(axis=0)).astype(int)) for s in left.collections[0].get_segments()}
    assert dashes == {(j, i) for i, j in zip(*np.nonzero(low / 4 > W.T @ W), strict=True)}


def test_bars_show_norm_and_superposition():
    norms, shared = np.linspace(1.2, 0, 7), np.linspace(0, 1.8, 7)
    _, ax = one()
    plots.feature_bars(norms, shared, ax, n_hid=3, bar=False)
    bars = ax.containers[0].patches
    np.testing.assert_allclose([p.get_height() for p in bars], norms)
    colours = style.sequential()(np.clip(shared, 0, 1))
    np.testing.assert_allclose([p.get_facecolor() for p in bars], colours, atol=1e-6)
    assert [line.get_xdata()[0] for line in ax.lines] == [2.5]


def test_arrows_are_the_columns():
    W, importance = polygon(5, 1.13), 0.9 ** np.arange(5)
    _, ax = one()
    plots.feature_arrows(W, ax, importance=importance, limit=1.5)
    (arrows,) = [c for c in ax.collections if isinstance(c, Quiver)]
    np.testing.assert_allclose([arrows.U, arrows.V], W)
    np.testing.assert_array_equal(arrows.get_offsets(), np.zeros((5, 2)))
    assert ax.get_xlim() == ax.get_ylim() == (-1.5, 1.5)
    assert ax.get_aspect() == 1
    shades = [grey(c) for c in arrows.get_facecolor()]
    assert shades == sorted(shades)
    assert shades[-1] < 0.75


def test_sets_have_markers_and_a_legend():
    _, ax = one()
    plots.feature_arrows(polygon(6), ax, groups=[0, 1, 0, 1, 2, 2])
    tips = [c for c in ax.collections if not isinstance(c, Quiver)]
    np.testing.assert_allclose(tips[0].get_offsets(), polygon(6).T[[0, 2]])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["set 1", "set 2", "set 3"]
    assert len({c.get_paths()[0].vertices.tobytes() for c in tips}) == 3


@pytest.mark.parametrize(
    ("points", "edges"), [(OCTAHEDRON, 12), (antiprism(), 16), (CUBE, 12), (polygon(5), 0), (np.eye(3)[:, :2], 0)]
)
def test_hull_edges_of_known_solids(points, edges):
    flat = points if len(points) == 3 else np.concatenate([points, np.zeros((1, 5))])
    found = frames.hull_edges(flat.T)
    assert len(set(found)) == len(found) == edges
    if edges and points is CUBE:
        np.testing.assert_allclose([np.linalg.norm(CUBE[:, a] - CUBE[:, b]) for a, b in found], 2 / 3**0.5)


def test_frame_3d_draws_spokes():
    _, (ax,) = plots.figure(4, 4, three_d=True)
    plots.frame_3d(OCTAHEDRON, ax, hull=False)
    ends = [np.array(line.get_data_3d())[:, -1] for line in ax.lines[::2]]
    np.testing.assert_allclose(ends, OCTAHEDRON.T)


# ---------------------------------------------------------------- 5 to 8


def test_response_draws_lines_and_the_gap():
    x, others = np.linspace(0, 1, 11), np.array([0, 0.5])
    x_hat = np.maximum(x - others[:, None], 0)
    _, ax = one()
    plots.response_curves(x, x_hat, others, ax)
    np.testing.assert_array_equal([line.get_ydata() for line in ax.lines], [x, *x_hat])
    area = ax.collections[0].get_paths()[0].vertices
    assert {tuple(np.round(v, 6)) for v in area} >= {(1.0, 0.5), (1.0, 1.0), (0.5, 0.0)}
    assert labels(ax) == {"x₂ = 0", "x₂ = 0.5", "x₁ itself"}


def labels(ax):
    return {t.get_text() for t in ax.texts if isinstance(t, Annotation)}


def test_phase_map_has_cells_around_the_points():
    p, r = np.geomspace(0.01, 1, 5), np.geomspace(0.1, 10, 3)
    found = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 2, 2, 2]])
    _, ax = one()
    plots.phase_map(found, p, r, ax, curves={"bound": np.stack([p, p])})
    mesh = ax.collections[0]
    np.testing.assert_array_equal(mesh.get_array(), found)
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(corners[0, 1:-1, 0], np.sqrt(p[1:] * p[:-1]))
    np.testing.assert_allclose(corners[[0, -1], 0, 1], [0.1 / 10**0.5, 10 * 10**0.5])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [t.get_text() for t in ax.texts] == ["ignored", "superposed", "dedicated"]
    for text, value in zip(ax.texts, range(3), strict=True):
        x, y = text.get_position()
        assert found[np.argmin(abs(r - y)), np.argmin(abs(p - x))] == value
    colours = [to_hex(mesh.cmap(mesh.norm(v))) for v in range(3)]
    assert colours == [colour.lower() for _, colour, _ in phases.PHASES]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.stack([p, p], axis=1))


def test_phase_map_names_only_what_is_there():
    _, ax = one()
    plots.phase_map(np.ones((3, 2)), [0.1, 1], [0.1, 1, 10], ax)
    assert [t.get_text() for t in ax.texts] == ["superposed"]


def test_slice_draws_losses_exact_and_crossings():
    p = np.linspace(0.1, 0.8, 71)
    losses = {"ignored": p / 3 - p**2 / 4, "antipodal": p**2 / 3}
    _, ax = one()
    plots.phase_slice(p, losses, ax, exact=0.9 * p, crossings={"4/7": (4 / 7, 0.1088)})
    drawn = {line.get_label(): line for line in ax.lines}
    for name, loss in losses.items():
        np.testing.assert_array_equal(drawn[name].get_ydata(), loss)
    np.testing.assert_array_equal(drawn["exact optimum"].get_ydata(), 0.9 * p)
    assert drawn["exact optimum"].get_linestyle() == "None"
    assert labels(ax) == {"ignored", "antipodal", "exact optimum", "4/7"}
    assert any(np.allclose(line.get_xydata(), [[4 / 7, 0.1088]]) for line in ax.lines)


def test_dimensionality_keeps_every_value_near_its_sparsity():
    D = RNG.random((10, 31))
    D[3, :5] = np.nan
    D[4, :7] = 0
    _, ax = one()
    plots.dimensionality_scatter(INVERSE, D, ax, D_star=1 / INVERSE)
    points = np.concatenate([c.get_offsets() for c in ax.collections])
    learned = D[np.isfinite(D)]
    np.testing.assert_allclose(np.sort(points[:, 1]), np.sort(learned))
    nearest = np.abs(np.log(points[:, :1] / INVERSE)).argmin(axis=1)
    for at in range(len(INVERSE)):
        np.testing.assert_allclose(np.sort(points[nearest == at, 1]), np.sort(D[at][np.isfinite(D[at])]))
    assert ax.get_xscale() == "log"
    guides = {line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--" and len(line.get_ydata()) == 2}
    assert guides == {level for level, _ in polytopes.LEVELS}
    star = next(line for line in ax.lines if line.get_marker() == "s")
    np.testing.assert_array_equal(star.get_ydata(), 1 / INVERSE)


# ---------------------------------------------------------------- 9 to 14


def test_graph_draws_strong_edges_by_sign():
    W = np.zeros((3, 7))
    W[:2, :5], W[2, 5:] = polygon(5)[:, [0, 2, 4, 1, 3]], [1, -1]
    _, ax = one()
    plots.feature_graph(W.T @ W, [[0, 1, 2, 3, 4], [5, 6]], ["pentagon", "digon"], ax, residuals=[0.02, 0.01])
    segments = ax.collections[0].get_segments()
    assert len(segments) == 11
    colours = [to_hex(c) for c in ax.collections[0].get_colors()]
    assert colours.count(style.POSITIVE.colour.lower()) == 5
    lengths = [np.linalg.norm(s[0] - s[1]) for s in segments[:10]]
    sides = [length for length, c in zip(lengths, colours, strict=False) if c == style.POSITIVE.colour.lower()]
    assert max(sides) < min(length for length in lengths if length not in sides)
    assert [t.get_text() for t in ax.texts] == ["1 × pentagon,  ρ ≤ 0.020", "1 × digon,  ρ ≤ 0.010"]
    assert sum(len(line.get_xdata()) for line in ax.lines) == 7


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_rings_do_not_touch(sizes):
    centres, captions, depth = geometry.shelves([sizes, sizes[::-1]])
    flat = [ring for group in centres for ring in group]
    assert [len(group) for group in centres] == [len(sizes)] * 2
    for (x, y, r), (u, v, s) in combinations(flat, 2):
        assert np.hypot(x - u, y - v) > r + s
    assert min(y - r for _, y, r in flat) > depth
    assert len(captions) == 2


def test_hull_passes_through_its_corners():
    _, ax = one()
    per_dim, energy = [1.5, 2, 2.5, 3], [0, 0, 0.5, 1.5]
    plots.packing_hull(per_dim, energy, ["a", "b", "c", "d"], ax, hull=[1, 2])
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[2, 0], [2.5, 0.5]])
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), [[1.5, 0], [3, 1.5]])
    assert [t.get_weight() for t in ax.texts] == ["normal", "bold", "bold", "normal"]


def test_odd_feature_is_a_square_and_the_outline_skips_it_when_gone():
    W = np.stack([polygon(5), polygon(5)])
    W[1, :, 0] = 0
    _, ax = one()
    plots.odd_feature_frames(W, [1, 0.2], ax, bar=False)
    assert [len(line.get_xdata()) for line in ax.lines] == [6, 5, 1]
    np.testing.assert_allclose(ax.lines[1].get_xydata()[0], ax.lines[1].get_xydata()[-1])
    offsets = [c.get_offsets() for c in ax.collections]
    np.testing.assert_allclose(offsets[0], polygon(5)[:, 1:].T)
    np.testing.assert_allclose(offsets[3], [[0, 0]])


def test_branches_end_where_they_end():
    _, ax = one()
    plots.branch_losses([0.1, 1, 2], {"a": [1, 2, 3], "b": [2, 4, np.nan]}, ax, crossings={"here": 0.3})
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [2, 4, np.nan])
    assert ax.lines[2].get_xdata()[0] == 0.3
    assert labels(ax) == {"a", "b", "here"}


def test_blocks_and_collapse():
    W = RNG.standard_normal((3, 7))
    _, axes = plots.figure(6, 3, columns=2)
    plots.set_blocks(W, axes[0], sets=[2, 5], bar=False)
    np.testing.assert_allclose(axes[0].images[0].get_array(), np.abs(W.T @ W))
    assert [line.get_ydata()[0] for line in axes[0].lines[::2]] == [1.5]
    cosines = np.array([[0.1, 0.99, 0.2], [1.0, 0.985, 0.3]])
    plots.collapse_strip([0.1, 0.5], cosines, axes[1])
    assert [t.get_text() for t in axes[1].texts if not isinstance(t, Annotation)] == ["1", "2"]
    drawn = np.stack([line.get_ydata() for line in axes[1].lines[:3]], axis=1)
    np.testing.assert_array_equal(drawn, -np.sort(-cosines, axis=1))
    shifts = np.stack([line.get_xdata() for line in axes[1].lines[:3]], axis=1) / [[0.1], [0.5]]
    assert np.abs(np.log(shifts)).max() < 0.05


def test_levels_over_time_share_steps():
    D, loss = RNG.random((len(STEPS), 7)), 1 + RNG.random(len(STEPS))
    _, axes = plots.figure(6, 4, rows=2)
    top, bottom = plots.levels_over_time(STEPS, D, loss, axes, highlight=[3])
    drawn = {line.get_ydata().tobytes() for line in top.lines if len(line.get_ydata()) == len(STEPS)}
    assert drawn == {np.ascontiguousarray(D[:, j]).tobytes() for j in range(7)}
    assert [line.get_linewidth() for line in top.lines[:7]].count(1.6) == 1
    np.testing.assert_array_equal(bottom.lines[0].get_ydata(), loss)
    assert top.get_xlim() == bottom.get_xlim() == (0, 800)


@given(st.integers(3, 11), st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_vulnerability_prints_pearson(t, seed):
    rng = np.random.default_rng(seed)
    inverse = np.geomspace(1, 100, t)
    per_dim, rise = inverse**0.5, inverse * (1 + rng.random(t))
    _, axes = plots.figure(6, 3, columns=3)
    plots.vulnerability(inverse, rise, per_dim, axes)
    (text,) = axes[2].texts
    assert text.get_text() == f"r = {np.corrcoef(per_dim, rise)[0, 1]:.4f}"
    np.testing.assert_array_equal(axes[2].lines[0].get_xydata(), np.stack([per_dim, rise], axis=1))


# ---------------------------------------------------------------- 15 to 18


@given(st.integers(1, 5), st.integers(1, 11), st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_stacks_add_up(n_hid, n_feat, seed):
    W = np.random.default_rng(seed).standard_normal((n_hid, n_feat))
    W[np.abs(W) < 0.02 * np.abs(W).max()] = 0
    _, ax = one()
    plots.neuron_stacks(W, ax, legend=False)
    bars = [c.patches[0] for c in ax.containers if isinstance(c, BarContainer)]
    assert len(bars) == np.count_nonzero(W)
    for neuron in range(n_hid):
        mine = [b for b in bars if round(b.get_x() + b.get_width() / 2) == neuron]
        edges = [e for b in mine for e in (b.get_y(), b.get_y() + b.get_height())] or [0.0]
        assert max(0.0, *edges, 0.0) == pytest.approx(W[neuron][W[neuron] > 0].sum())
        assert min(0.0, *edges, 0.0) == pytest.approx(W[neuron][W[neuron] < 0].sum())


def test_stacks_follow_the_order():
    _, ax = one()
    plots.neuron_stacks(np.diag([1.0, 2.0, 3.0]), ax, order=[2, 0])
    assert [c.patches[0].get_height() for c in ax.containers] == [3, 1]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "0"]
    assert [t.get_text() for t in ax.texts] == ["2", "0"]


def test_wiring_joins_what_the_weights_join():
    W_1 = np.array([[0, 2.0], [-1.0, 0], [1.0, 0], [0, -0.001]])
    W_2 = np.abs(W_1).T
    _, ax = one()
    plots.wiring(W_1, W_2, ax)
    segments = [c.get_segments()[0] for c in ax.collections]
    assert len(segments) == 6
    names = {tuple(t.get_position()): t.get_text() for t in ax.texts}
    joined = {(names[tuple(a)], names[tuple(b)]) for a, b in segments}
    assert joined == {("x1", "h0"), ("x0", "h1"), ("x0", "h2"), ("h0", "y1"), ("h1", "y0"), ("h2", "y0")}
    negative = [to_hex(c.get_color()[0]) for c in ax.collections].count(style.NEGATIVE.colour.lower())
    assert negative == 1


def test_in_and_out_draw_both_matrices():
    W_1, W_2 = np.diag([1.0, 2.0]), np.array([[3.0, 0], [0, 4.0], [0, 5.0]])
    _, axes = plots.figure(5, 4, rows=2)
    plots.in_and_out(W_1, W_2, axes)
    heights = [[c.patches[0].get_height() for c in ax.containers] for ax in axes]
    assert heights == [[1, 2], [3, 5, 4]]


def test_fractions_are_drawn():
    _, axes = plots.figure(8, 3, columns=2)
    plots.monosemantic_fraction([1, 0.1, 0.01], {"a": [1, 0.5, 0]}, axes[0])
    np.testing.assert_array_equal(axes[0].lines[0].get_xydata(), [[1, 1], [0.1, 0.5], [0.01, 0]])
    plots.active_fraction([0, 10, 20], {"a": [1, 0.5, 0.2], "b": [1, 1, 1]}, axes[1], resampled=[10])
    np.testing.assert_array_equal(axes[1].lines[0].get_ydata(), [1, 0.5, 0.2])
    np.testing.assert_array_equal(axes[1].lines[2].get_xdata(), [10, 10])
    assert labels(axes[1]) == {"a", "b"}


def test_dead_latents_are_grey_crosses():
    W_dec, truth = polygon(5).T, 1.1 * polygon(4)
    _, ax = one()
    plots.recovered_directions(W_dec, truth, ax, dead=[0, 1, 0, 0, 1])
    marks = {line.get_marker(): line for line in ax.lines if line.get_linestyle() == "None"}
    np.testing.assert_allclose(marks["o"].get_xydata(), W_dec[[0, 2, 3]])
    np.testing.assert_allclose(marks["X"].get_xydata(), W_dec[[1, 4]])
    broad = [line.get_xydata()[1] for line in ax.lines if line.get_linewidth() == 7 and len(line.get_xdata())]
    np.testing.assert_allclose(broad, truth.T)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["latent", "dead latent", "true feature"]


def test_sweep_marks_the_best():
    _, axes = plots.figure(6, 5, rows=2)
    top, bottom = plots.sparsity_sweep(L1, MMCS, 3 / L1, L1, axes, random_mmcs=0.412)
    np.testing.assert_array_equal(top.lines[0].get_ydata(), MMCS)
    assert all(0.2 in [line.get_xdata()[0] for line in ax.lines] for ax in (top, bottom))
    assert 0.412 in [line.get_ydata()[0] for line in top.lines]
    drawn = [line.get_ydata() for line in bottom.lines if len(line.get_ydata()) == len(L1)]
    np.testing.assert_array_equal(drawn, [3 / L1, L1])
    assert top.get_xscale() == bottom.get_xscale() == bottom.get_yscale() == "log"
    assert top.get_xlim() == bottom.get_xlim()


# ---------------------------------------------------------------- 19 to 22


def test_cosines_and_activations_are_written_into_cells():
    encoder, decoder = RNG.uniform(-1, 1, (3, 5)), RNG.uniform(-1, 1, (3, 5))
    _, axes = plots.figure(9, 3, columns=3)
    drawn = plots.cosine_maps(encoder, decoder, axes[:2], bar=False)
    for ax, values in zip(drawn, (encoder, decoder), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), values)
        assert ax.images[0].get_clim() == (-1, 1)
        assert [float(t.get_text().replace("−", "-")) for t in ax.texts] == pytest.approx(values.ravel(), abs=0.0051)
        assert not any(t.get_text() == "−0.00" for t in ax.texts)
    table = np.array([[0.995, 0], [0, 1.409]])
    plots.activation_table(table, ["one", "two"], axes[2], bar=False)
    np.testing.assert_array_equal(axes[2].images[0].get_array().filled(0), table)
    assert [t.get_text() for t in axes[2].get_xticklabels()] == ["one", "two"]


def test_wrong_l0_draws_three_panels():
    _, axes = plots.figure(9, 3, columns=3)
    plots.wrong_l0([1.5, 2], {"+": [0.3, 0]}, [0.1, 0.02], [0.2, 0.03], {"+": [0.1, 0]}, axes, true_l0=2)
    drawn = [[line.get_ydata().tolist() for line in ax.lines if line.get_marker() != "None"] for ax in axes]
    assert drawn == [[[0.3, 0]], [[0.1, 0.02], [0.2, 0.03]], [[0.1, 0]]]
    assert all(ax.lines[-1].get_xdata()[0] == 2 for ax in axes)


def test_rings_draw_points_and_features():
    _, axes = plots.figure(6, 3, columns=2)
    hidden, W = RNG.standard_normal((7, 2)), RNG.standard_normal((2, 11))
    plots.rings(hidden, W, axes)
    np.testing.assert_array_equal(axes[0].lines[-1].get_xydata(), hidden)
    np.testing.assert_array_equal(axes[1].lines[-1].get_xydata(), W.T)
    assert axes[0].get_xlim()[1] == pytest.approx(1.15 * np.linalg.norm(hidden, axis=1).max())


def test_double_descent_hollows_out_zero():
    _, ax = one()
    plots.double_descent(SIZES, TRAIN, TEST, ax)
    shown = ax.lines[0].get_ydata()
    np.testing.assert_array_equal(shown[2:], TRAIN[2:])
    assert 0 < shown[0] == shown[1] < TRAIN[2]
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [line.get_xdata().tolist() for line in hollow] == [[3, 5]]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert labels(ax) == {"≈ 0", "training loss", "test loss"}


def test_data_dimensionality_has_medians_and_the_curve():
    _, ax = one()
    D = [np.array([0.6, 0.7, 0.65]), np.array([0.4, 0.1, 0.2, 0.5, 0.3])]
    plots.data_dimensionality([3, 5], D, ax)
    bars = [line.get_ydata()[0] for line in ax.lines if line.get_linewidth() == 2]
    assert bars == [0.65, 0.3]
    curve = next(line for line in ax.lines if line.get_linestyle() == "--")
    np.testing.assert_allclose(curve.get_ydata(), 2 / curve.get_xdata())


def test_limits_draw_bounds():
    _, axes = plots.figure(12, 3, columns=3)
    plots.oracle_bound([0, 1, 2], [1, 0.3, 0], axes[0], measured=[[1.5], [0.2]])
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), [1, 0.3, 0])
    np.testing.assert_array_equal(axes[0].lines[1].get_xydata(), [[1.5, 0.2]])
    plots.shrinkage_floor(L1, L1**2, axes[1])
    np.testing.assert_array_equal(axes[1].lines[0].get_ydata(), L1**2)
    plots.coherence_bounds([48, 64], [0.1, 0.126], axes[2], random=[0.5, 0.542], n_hid=32)
    assert labels(axes[2]) == {"Welch bound: k < 4.5", "random: k < 1.4"}


# ---------------------------------------------------------------- labels, scales, errors, film


@given(st.lists(st.floats(-1, 2), min_size=1, max_size=9), st.booleans())
@settings(max_examples=8, deadline=None)
def test_end_labels_never_overlap_and_keep_their_order(heights, log):
    drawn, ax = one(5, 4)
    ax.set(xlim=(0, 1), ylim=(0.01, 2) if log else (-1, 2))
    ax.set_yscale("log" if log else "linear")
    heights = [abs(h) + 0.01 for h in heights] if log else heights
    style.end_labels(ax, heights, [f"line {i}" for i in range(len(heights))])
    drawn.draw_without_rendering()
    boxes = {t.get_text(): Text.get_window_extent(t) for t in ax.texts}
    assert not any(overlaps(a, b) for a, b in combinations(boxes.values(), 2))
    order = sorted(boxes, key=lambda name: boxes[name].y0)
    values = [round(heights[int(name.split()[1])], 6) for name in order]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("value", "text"), [(0.003, "0.003"), (20, "20"), (1e-5, "$10^{-5}$"), (2e6, r"$2 \cdot 10^{6}$")]
)
def test_ticks_are_plain_numbers(value, text):
    assert style.plain(value) == text
    mpl.mathtext.MathTextParser("path").parse(text)


MISTAKES = {
    "x: expected shape (n, n_feat), got (3,)": lambda ax: plots.batch_heatmap(np.ones(3), ax),
    "x: expected numbers in an array, got str": lambda ax: plots.batch_heatmap("some", ax),
    "x: expected at least one number, got shape (0, 3)": lambda ax: plots.batch_heatmap(np.ones((0, 3)), ax),
    "W: expected shape (2, n_feat), got (3, 6)": lambda ax: plots.feature_arrows(OCTAHEDRON, ax),
    "importance: expected shape (5,), got (4,)": lambda ax: plots.feature_arrows(polygon(5), ax, importance=np.ones(4)),
    "groups: expected none beside importance": lambda ax: plots.feature_arrows(
        polygon(2), ax, importance=[1, 2], groups=[0, 1]
    ),
    "axes: expected 2 Axes, got 1": lambda ax: plots.gram_and_bias(np.eye(2), np.ones(2), [ax]),
    "labels: expected 0, 1 or 2, got 3": lambda ax: plots.phase_map(np.full((2, 2), 3), [0.1, 1], [0.1, 1], ax),
    "density: expected two or more positive numbers that rise": lambda ax: plots.phase_map(
        np.ones((2, 2)), [1, 0.1], [0.1, 1], ax
    ),
    "sets: expected sizes that sum to 4, got [3]": lambda ax: plots.set_blocks(np.ones((3, 4)), ax, sets=[3]),
    "names: expected 1, one for each component, got 2": lambda ax: plots.feature_graph(
        np.eye(2), [[0, 1]], ["a", "b"], ax
    ),
    "W: expected 2 or 3 hidden dimensions for a picture, got 5": lambda ax: plots.snapshots(
        np.ones((1, 5, 7)), [0], [ax]
    ),
    "losses['a']: expected shape (3,), got (2,)": lambda ax: plots.branch_losses([1, 2, 3], {"a": [1, 2]}, ax),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named_in_one_line(message):
    _, ax = one()
    with pytest.raises(InputError) as caught:
        MISTAKES[message](ax)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", ["plane", "space"])
def test_film_has_a_picture_for_every_frame(tmp_path, shape):
    last = polygon(5) if shape == "plane" else OCTAHEDRON
    film = np.stack([0.5 * last, 0.75 * last, last])
    path = plots.animate_frames(film, [0, 100, 2000], tmp_path / "film.gif", fps=4, groups=[0] * last.shape[1])
    with Image.open(path) as picture:
        assert (picture.n_frames, picture.info["duration"]) == (3, 250)
        seen = []
        for at in range(3):
            picture.seek(at)
            seen.append(np.asarray(picture.convert("L"), dtype=float))
    assert all(np.abs(a - b).max() > 100 for a, b in combinations(seen, 2))
    assert not _pylab_helpers.Gcf.get_all_fig_managers()


@pytest.mark.skipif(not writers.is_available("ffmpeg"), reason="ffmpeg is not installed")
@pytest.mark.parametrize("suffix", [".mp4", ".html"])
def test_film_as_video(tmp_path, suffix):
    path = plots.animate_frames(np.stack([polygon(3)] * 2), [0, 1], tmp_path / f"film{suffix}")
    assert path.stat().st_size > 1000
    assert (suffix == ".mp4") or "<video" in path.read_text(encoding="utf-8")


def test_film_page_holds_the_video(tmp_path, monkeypatch):
    monkeypatch.setattr(dynamics.writers, "is_available", lambda name: True)
    monkeypatch.setattr(
        dynamics.FuncAnimation, "to_html5_video", lambda self, embed_limit: self._draw_was_started or ""
    )
    monkeypatch.setattr(dynamics.FuncAnimation, "to_html5_video", page)
    path = plots.animate_frames(np.stack([polygon(3)] * 2), [0, 1], tmp_path / "film.html")
    assert "<video>2 frames</video>" in path.read_text(encoding="utf-8")


def page(film, embed_limit):
    film._draw_was_started = True
    return f"<video>{len(list(film.new_frame_seq()))} frames</video>"


def test_film_needs_a_writer_and_a_known_suffix(tmp_path, monkeypatch):
    film = np.stack([polygon(3)] * 2)
    with pytest.raises(InputError, match=r"path: expected a name that ends in \.gif, \.mp4, \.html, got '\.avi'"):
        plots.animate_frames(film, [0, 1], tmp_path / "film.avi")
    for wrong, fps, message in (
        (np.nan * film, 4, "frames: expected finite numbers, got 12 that are not"),
        (film[:, :1], 4, "frames: expected 2 or 3 hidden dimensions for a picture, got 1"),
        (film, 0, "fps: expected more than 0 pictures a second, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            plots.animate_frames(wrong, [0, 1], tmp_path / "film.gif", fps=fps)
    monkeypatch.setattr(dynamics.writers, "is_available", lambda name: False)
    for suffix, words_ in ((".mp4", "install the program ffmpeg"), (".gif", "pip install pillow")):
        with pytest.raises(InputError, match=words_):
            plots.animate_frames(film, [0, 1], tmp_path / f"film{suffix}")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the package


def test_table_names_every_function():
    documented = {name for name in plots.__all__ if f"``{name}``" in plots.__doc__}
    assert documented == {name for name in plots.__all__ if callable(getattr(plots, name))}
    assert [f"\n{number} " in plots.__doc__ for number in range(1, 23)] == [True] * 22
