"""`make wandb-report`: a W&B dashboard of a table, as code, from its records, which remain authoritative."""
