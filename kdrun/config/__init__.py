"""From the command line's words to checked specs: the only users of Hydra and OmegaConf, with the cli."""
