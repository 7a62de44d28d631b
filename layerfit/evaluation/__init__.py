"""What a trained model is asked: lm-eval's tasks, through `harness.evaluate`."""
