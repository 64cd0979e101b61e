"""Comparison of two runs: settings, curves, figures, scores, cost, and which bytes are the same."""
