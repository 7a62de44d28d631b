"""Runs as jobs of a cluster, through submitit: `hydra/launcher=slurm`. submitit is imported only where it is used."""
