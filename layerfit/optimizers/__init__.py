"""Optimizers: AdamW with fp32 masters and skippable groups, and GaLore."""
