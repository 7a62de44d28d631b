"""Optimizers: AdamW with fp32 masters and groups that can be inactive; AdaLoRA's and GaLore's variants of it."""
