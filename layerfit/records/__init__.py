"""Records: the results of runs, from which tables are built, and their manifests."""
