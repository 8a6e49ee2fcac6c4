"""A table as Markdown, CSV, LaTeX and figures."""
