"""Everything CUDA: parity check and benchmark. Installed as ``minisae.gpu``."""
