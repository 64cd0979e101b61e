"""What runs inside of the programs that `longcat port check` compares; needs torch alone."""
