"""The report as one self-contained HTML file: every table and figure, and a page for every run."""
