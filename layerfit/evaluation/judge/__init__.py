"""Judged benchmarks (MT-Bench and Vicuna, arXiv:2306.05685): a model answers, a judge rates every turn from 1 to 10.

Files are in FastChat's format: its questions, references, prompts and judgments can be read, and its tools read
`outputs/<run_id>/judge`, a data folder in its layout. The entry point is `run.judged`;
`python -m layerfit.evaluation.judge rescore FILE` recomputes every score from raw judgments, offline.
"""
