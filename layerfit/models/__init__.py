"""Models: their files, differences between architectures, and receipts of a mirror's contents."""
