"""Many runs: checked before the first one starts, then started here or as cluster jobs, and watched."""
