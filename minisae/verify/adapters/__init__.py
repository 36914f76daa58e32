"""Adapters of four libraries, for :mod:`minisae.verify.adapter`, and as examples of how to write one.

``minisae verify run minisae.verify.adapters.saelens --variant topk``, and so on for ``dictionary_learning``,
``sparsify`` and ``overcomplete``. Each module needs its library, and with it torch: ``pip install 'minisae[peers]'``.
The convention that each is checked against is the library's own preset; ``CONVENTIONS`` says so, and ``KNOWN`` in which
awkward cases the library is not its preset.
"""
