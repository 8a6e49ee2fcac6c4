"""The benchmark: kdrun against the training loops of other code, on this machine."""
