"""Pictures, by the data they draw, their axes, and whether their words overlap."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.text import Text

from minisae.interpret import Context, LatentPage
from minisae.interpret.page import latents_page, name_of, shade
from minisae.interpret.pictures import (
    Point,
    decoder_cosines,
    firing_densities,
    frontier,
    random_directions,
    training_curves,
)
from minisae.metrics import cosine_structure, welch_bound

RNG = np.random.default_rng(0)


def records(dead):
    return [{"rows": 1000 * i, "r2": 1 - 1 / (i + 1), "l0": 16.0 + i, "dead": dead} for i in range(1, 9)]


def drawn_lines(ax):
    return [(line.get_xdata(), line.get_ydata()) for line in ax.get_lines()]


def axes_are_named(figure):
    return all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)


def test_training_curves_draw_the_records():
    figure = training_curves({"topk": records(3), "relu": records(0)})
    x, y = drawn_lines(figure.axes[0])[0]
    np.testing.assert_allclose(x, np.arange(1, 9) / 1000)
    np.testing.assert_allclose(y, [r["r2"] for r in records(3)])
    assert [len(drawn_lines(ax)) for ax in figure.axes] == [2, 2, 2]
    assert axes_are_named(figure)


def test_densities_name_the_silent():
    density = np.concatenate([np.zeros(5), 10.0 ** RNG.uniform(-5, -1, 96)])
    figure = firing_densities({"topk": density})
    assert "silent: 5 of 101" in figure.axes[0].get_legend().get_texts()[0].get_text()
    assert figure.axes[0].patches[0].get_data().values.sum() == 96
    assert axes_are_named(figure)


def test_frontier_draws_every_point():
    points = [Point(4, 0.3, "k = 4"), Point(8, 0.2, "k = 8")]
    figure = frontier({"topk": points, "PCA": points}, {"PCA": Point(6, 0.1, "longer")})
    *short, long = drawn_lines(figure.axes[0])
    for x, y in short:
        np.testing.assert_array_equal([x, y], [[4, 8], [0.3, 0.2]])
    np.testing.assert_array_equal(long, [[6], [0.1]])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["topk", "PCA", "PCA, longer"]
    assert axes_are_named(figure)


def test_cosines_mark_the_welch_bound():
    W = random_directions(41, 7, seed=0)
    np.testing.assert_allclose(np.linalg.norm(W, axis=1), 1, rtol=1e-5)
    figure = decoder_cosines({"random": cosine_structure(W)})
    assert figure.axes[1].get_lines()[0].get_xdata()[0] == welch_bound(41, 7)
    assert figure.axes[0].patches[0].get_data().values.sum() == pytest.approx(1)
    assert axes_are_named(figure)


@pytest.fixture
def pages():
    context = Context(0, 44, RNG.integers(0, 5, 57), RNG.random(57))
    live = [LatentPage(i, 0.1, 1.0, ((0, 0.5), (3, 0.2)), (context,) * 5) for i in (3, 901, 1017)]
    return [*live, LatentPage(5, 0.0, 0.0, (), ())]


def test_page_shows_dead_latents_as_dead(pages):
    words = [text.get_text() for text in latents_page(pages, "ab\n d", before=44).axes[0].texts]
    assert "latent 5: dead (silent on all held-out rows)" in words
    assert name_of(pages[0], "ab\n d") in words
    assert name_of(pages[0], "ab\n d") == "latent 3: fires on 10.00% of rows; on 'a' 50%, '␣' 20%"
    assert "↵" in words


def test_page_keeps_its_text_apart(pages):
    figure = latents_page(pages, "WM\n d", before=44)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text().startswith("latent")]
    widest = figure.bbox.width
    assert all(box.x0 >= 0 and box.x1 <= widest for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_shades_darken_and_black_text_stays_legible():
    light = [0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2] for c in map(shade, np.linspace(0, 1, 9))]
    assert all(a > b for a, b in pairwise(light))
    assert light[-1] > 0.4


def test_no_label_lies_on_another():
    points = {
        name: [Point(4 * 2.0**i, a / 2.0**i, f"k = {i}") for i in range(5)] for name, a in (("a", 0.3), ("b", 0.8))
    }
    figure = frontier(points, {})
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts if isinstance(t, Text)]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
