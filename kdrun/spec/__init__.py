"""What a run is: everything that can change a number beyond rounding."""
