"""Yuan et al. 2020, Revisiting Knowledge Distillation via Label Smoothing Regularization (arXiv 1909.11723)."""
