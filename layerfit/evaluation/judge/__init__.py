"""Judged benchmarks (MT-Bench and Vicuna, arXiv:2306.05685): a model answers, a judge rates every turn from 1 to 10.

Files are FastChat's, in both directions: its questions, references, prompts and judgments can be read, and
`outputs/<run_id>/judge` is a data folder that its own tools understand. `run.judged` does it all;
`python -m layerfit.evaluation.judge rescore FILE` computes every score again from raw judgments, offline.
"""
