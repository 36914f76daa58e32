"""Checks for anybody's implementation: gradients, pseudo-derivatives, all of it against the reference, and what would
explain other numbers.

``check(load_adapter(...), "topk")`` is ``minisae verify run``; :mod:`minisae.verify.vectors` has the same cases as
files for any language, :mod:`minisae.verify.pytest_plugin` as tests.
"""

from minisae.verify.adapter import Adapter, load_adapter
from minisae.verify.detective import Explanation, explain
from minisae.verify.gradcheck import GradientCheck, check_directions, check_gradients
from minisae.verify.gradcheck_ste import SurrogateCheck, check_surrogate
from minisae.verify.harness import check
from minisae.verify.report import Report, Row

__all__ = [
    "Adapter",
    "Explanation",
    "GradientCheck",
    "Report",
    "Row",
    "SurrogateCheck",
    "check",
    "check_directions",
    "check_gradients",
    "check_surrogate",
    "explain",
    "load_adapter",
]
