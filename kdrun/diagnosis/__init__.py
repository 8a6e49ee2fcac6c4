"""What `kdrun doctor` finds out: facts about the machine, and whether each fast way computes what ordinary steps do."""
