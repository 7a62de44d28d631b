"""layerfit: layer-wise fine-tuning methods, run and compared fairly."""

__version__ = "0.2.0"
