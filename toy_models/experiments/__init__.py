"""The papers' experiments, one module each: run, and get arrays that the pictures take."""
