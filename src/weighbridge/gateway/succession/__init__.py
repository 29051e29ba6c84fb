"""How one gateway follows another on the same port without a moment in which nobody listens."""
