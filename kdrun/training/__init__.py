"""The training loop: steps and their faster forms, optimisers, precision, evaluation, teachers."""
