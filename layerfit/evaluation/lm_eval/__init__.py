"""Evaluation by lm-eval: its tasks, its scores, and what several requests share computed once."""
