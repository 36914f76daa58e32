"""The skip transcoder's cases; what it computes is tested beside the transcoder, in ``test_transcoder.py``."""

from tests.sae.auxk import held_fixed
from tests.sae.test_transcoder import CASES, saelens_code

__all__ = ["CASES", "held_fixed", "saelens_code"]
