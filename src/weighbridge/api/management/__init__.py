"""Management routes beside the nine of the hosted contract."""
