"""kdrun: knowledge-distillation experiments in PyTorch, one command each."""

__version__ = "0.1.0"
