"""The pictures of toy models of superposition, as functions that take results and axes, draw, and return the axes.

Nothing here keeps state, shows or saves (but :func:`animate_frames`, which writes a film). ``figure`` makes a figure
that needs no pyplot; embeddings are drawn as given: turn them into a standard position before. Axes' extra panels are
given as a sequence. ``bar=False`` and ``legend=False`` leave out what a neighbouring panel already shows.

====== ===================================================== =====================================================
figure functions                                              what must be visible
====== ===================================================== =====================================================
1      ``batch_heatmap``                                     blank rows where features are sparse
2      ``gram_and_bias``                                     an identity block; or −1 beside the diagonal
3      ``feature_bars``                                      superposition spreads from the least important on
4      ``feature_arrows``, ``importance_bar``                right angle, square, pentagon
5      ``response_curves``                                   where the antipodal pair fails: both are on
6      ``phase_map``                                         three phases: theory, exact, trained
7      ``phase_slice``                                       the losses cross at 4/7, at .582; the exact lies below
8      ``dimensionality_scatter``                            plateaus at 1/2, 2/5, 3/8
9      ``feature_graph``                                     recognised components with their residuals
10     ``packing_hull``                                      digon, pentagon and antiprism on the lower hull
11     ``odd_feature_frames``, ``branch_losses``             the pentagon deforms; two losses cross
12     ``feature_arrows``, ``set_blocks``, ``collapse_strip`` correlated sets: right angles, blocks, collapsed pairs
13     ``levels_over_time``, ``snapshots``, ``frame_3d``,     jumps between levels; the way to the octahedron
       ``animate_frames``
14     ``vulnerability``                                     vulnerability rises with features per dimension
15     ``neuron_stacks``                                     one feature to a neuron, or several
16     ``in_and_out``, ``wiring``, ``monosemantic_fraction``  pairs of neurons compute |x|; then polysemantic
17     ``recovered_directions``, ``active_fraction``          all features found, with resampling
18     ``sparsity_sweep``                                    the best λ: L0 a little above the truth
19     ``cosine_maps``, ``activation_table``                  the parent's latent is silent where the child is on
20     ``wrong_l0``                                          too small a k mixes features, and has the lower error
21     ``rings``, ``data_dimensionality``, ``double_descent`` data form a ring, then features do; a peak between
22     ``oracle_bound``, ``shrinkage_floor``,                 no dictionary below the oracle; the Welch bound is far
       ``coherence_bounds``
====== ===================================================== =====================================================
"""

from toy_models.plots.dynamics import animate_frames, levels_over_time, snapshots
from toy_models.plots.frames import batch_heatmap, feature_arrows, feature_bars, frame_3d, gram_and_bias, importance_bar
from toy_models.plots.geometry import (
    collapse_strip,
    dimensionality_scatter,
    feature_graph,
    packing_hull,
    set_blocks,
    vulnerability,
)
from toy_models.plots.limits import (
    coherence_bounds,
    data_dimensionality,
    double_descent,
    oracle_bound,
    rings,
    shrinkage_floor,
)
from toy_models.plots.neurons import in_and_out, monosemantic_fraction, neuron_stacks, wiring
from toy_models.plots.phases import branch_losses, odd_feature_frames, phase_map, phase_slice, response_curves
from toy_models.plots.saes import (
    activation_table,
    active_fraction,
    cosine_maps,
    recovered_directions,
    sparsity_sweep,
    wrong_l0,
)
from toy_models.plots.style import STYLES, figure

__all__ = [
    "STYLES",
    "activation_table",
    "active_fraction",
    "animate_frames",
    "batch_heatmap",
    "branch_losses",
    "coherence_bounds",
    "collapse_strip",
    "cosine_maps",
    "data_dimensionality",
    "dimensionality_scatter",
    "double_descent",
    "feature_arrows",
    "feature_bars",
    "feature_graph",
    "figure",
    "frame_3d",
    "gram_and_bias",
    "importance_bar",
    "in_and_out",
    "levels_over_time",
    "monosemantic_fraction",
    "neuron_stacks",
    "odd_feature_frames",
    "oracle_bound",
    "packing_hull",
    "phase_map",
    "phase_slice",
    "recovered_directions",
    "response_curves",
    "rings",
    "set_blocks",
    "shrinkage_floor",
    "snapshots",
    "sparsity_sweep",
    "vulnerability",
    "wiring",
    "wrong_l0",
]
