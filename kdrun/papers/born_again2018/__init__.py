"""Furlanello et al. 2018, Born-Again Neural Networks (arXiv 1805.04770)."""
