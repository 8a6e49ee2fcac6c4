"""Tang et al. 2020, Understanding and Improving Knowledge Distillation (arXiv 2002.03532)."""
