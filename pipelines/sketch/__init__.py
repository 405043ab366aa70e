"""Sketches in words (a subset of TikZ) to control pictures, masks and phrases; after ControlGPT (arXiv 2305.18583)."""
