"""The management calls beside the nine of the hosted contract, and their answers."""
