"""`make wandb-report`: a W&B dashboard of a table, as code, from its records. W&B is a view: records stay the truth."""
