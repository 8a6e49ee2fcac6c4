"""Where runs are: their files, locks, status and results."""
