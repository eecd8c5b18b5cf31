"""Reports: what became of each layer, and why."""
