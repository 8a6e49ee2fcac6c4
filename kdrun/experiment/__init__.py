"""A run from its spec to its result: names to objects, the store of runs, the runner."""
