"""One run on one rank: load, train, evaluate, record."""
