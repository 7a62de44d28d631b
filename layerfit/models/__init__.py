"""Models: where their files are, what differs between architectures, what a mirror holds of them."""
