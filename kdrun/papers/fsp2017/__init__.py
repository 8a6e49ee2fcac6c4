"""Yim et al. 2017, A Gift from Knowledge Distillation (CVPR)."""
