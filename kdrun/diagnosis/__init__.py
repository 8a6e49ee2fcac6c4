"""`kdrun doctor`: facts of the machine, and checks of each fast way of computing against ordinary steps."""
