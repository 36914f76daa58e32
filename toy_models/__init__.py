"""Toy models of superposition (Elhage et al. 2022, arXiv:2209.10652): models, exact losses, theory and geometry.

Letters: instances ``i``, rows ``n``, features ``n_feat``, hidden width ``n_hid``; ``W (i, n_hid, n_feat)``: a feature
is a *column*, as in the paper. Import what you need: ``from toy_models import data, models, train``.
"""
