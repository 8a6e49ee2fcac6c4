"""One folder per paper: its tables (YAML), `conf/` with its config, README.md, and the code that only it needs.

Nothing outside imports it: tables and config are found in the folders, and code by the `_target_` of a config.
"""
