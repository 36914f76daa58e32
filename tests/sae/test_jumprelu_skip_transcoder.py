"""The skip connection's cases; what it computes is tested in ``test_jumprelu_transcoder.py``."""

from tests.sae.test_jumprelu_transcoder import CASES, held_fixed, saelens_code

__all__ = ["CASES", "held_fixed", "saelens_code"]
