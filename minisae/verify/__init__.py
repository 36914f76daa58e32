"""Checks for anybody's implementation: finite-difference gradients."""

from minisae.verify.gradcheck import GradientCheck, check_gradients

__all__ = ["GradientCheck", "check_gradients"]
