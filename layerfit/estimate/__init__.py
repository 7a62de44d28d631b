"""`make estimate`: what the rows of a table will cost, before any weight is loaded and without torch."""
