"""Evaluation by lm-eval: its tasks, its scores, and common prefixes of requests computed once."""
