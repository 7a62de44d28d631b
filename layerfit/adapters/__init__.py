"""Adapters that methods put into a model: LoRA and its kin by PEFT, bottlenecks, masked entries."""
