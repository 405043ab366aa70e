"""Sketches in words (a subset of TikZ) to control pictures, masks and phrases.

After ControlGPT (arXiv 2305.18583).
"""
