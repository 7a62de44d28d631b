"""`make estimate`: what the rows of a table will cost, counted on models without numbers: no weight is loaded."""
