"""What a trained model is asked, and who asks: `protocols.evaluate` is the one door."""
