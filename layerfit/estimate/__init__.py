"""`make estimate`: memory, FLOPs and hours of a table's rows, counted on the meta device: no weight is loaded."""
