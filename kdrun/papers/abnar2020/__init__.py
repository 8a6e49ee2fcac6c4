"""Abnar, Dehghani, Zuidema 2020, Transferring Inductive Biases through Knowledge Distillation (arXiv 2006.00555)."""
