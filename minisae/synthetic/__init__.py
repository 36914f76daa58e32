"""Data from a known dictionary, with the truth returned: the test bench of a sparse autoencoder.

    x = f W + bias + noise      f ≥ 0 and mostly 0, W the unit-norm dictionary

The data model follows ``sae_lens.synthetic`` 6.54. It departs from it in one place: a firing probability is the share
of rows in which the coefficient is positive, whatever hierarchy, exclusion, correlation and rectified magnitudes do.
"""

from minisae.synthetic.dictionary import orthogonalise, overlap_loss, random_dictionary
from minisae.synthetic.firing import Hierarchy, firing_probabilities, given_parent, tree
from minisae.synthetic.model import MAGNITUDES, SyntheticModel, make
from minisae.synthetic.sampling import Sample, SyntheticSource, sample

__all__ = [
    "MAGNITUDES",
    "Hierarchy",
    "Sample",
    "SyntheticModel",
    "SyntheticSource",
    "firing_probabilities",
    "given_parent",
    "make",
    "orthogonalise",
    "overlap_loss",
    "random_dictionary",
    "sample",
    "tree",
]
