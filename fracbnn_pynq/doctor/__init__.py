"""What works on this machine: checks of the computer, the board, an overlay's files and its hand-off file."""
