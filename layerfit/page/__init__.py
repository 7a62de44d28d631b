"""The report as one HTML file: every table and figure, and a page for every run. It asks for nothing else."""
