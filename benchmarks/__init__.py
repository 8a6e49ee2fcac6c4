"""The benchmark: kdrun against a loop in the manner of the released Tf-KD code, on this machine."""
