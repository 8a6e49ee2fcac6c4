"""Tian, Krishnan, Isola 2020, Contrastive Representation Distillation (arXiv 1910.10699) with its code RepDistiller."""
