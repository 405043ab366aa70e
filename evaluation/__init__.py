"""Judging a likeness: plots today; scores and sweeps come next."""
