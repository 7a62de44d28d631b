"""`make estimate`: what the rows of a table will cost, counted on models without numbers, before any weight is loaded."""
