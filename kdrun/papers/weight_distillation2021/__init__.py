"""Lin et al. 2021, Weight Distillation (arXiv 2009.09152)."""
