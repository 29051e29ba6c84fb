"""What each text() statement of the stores does."""
