"""What is computed on the pixels of one block."""
