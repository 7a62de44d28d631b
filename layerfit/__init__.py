"""layerfit: layer-wise fine-tuning methods, run and compared fairly."""

__version__ = "0.3.0"
