"""The configuration tree of kdrun; `hydra.searchpath=[pkg://kdrun.conf]` finds it from other programs."""
