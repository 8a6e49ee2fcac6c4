"""Tables and pictures, read from the files of runs."""
