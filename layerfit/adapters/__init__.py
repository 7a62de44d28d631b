"""Adapters inside a model: LoRA, DoRA and AdaLoRA by PEFT, bottleneck adapters, masked entries."""
