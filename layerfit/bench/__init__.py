"""Benchmarks as commands: `make bench B=switching`. They print ratios of things measured in one run."""
