"""What the room does with NumPy arrays."""
