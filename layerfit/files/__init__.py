"""Files and folders: paths from outside, whole files written atomically."""
