"""The training loop and what it stands on: optimisers, precision, evaluation, teachers, checkpoints."""
