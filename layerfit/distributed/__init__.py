"""Ranks: which one this process is, how ranks meet and communicate, and which one has died."""
