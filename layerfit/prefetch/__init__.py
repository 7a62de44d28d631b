"""Filling a mirror: everything that some runs need, fetched where there is network, for machines that have none."""
