"""Evaluation of a trained model; the entry point is `protocols.evaluate`."""
