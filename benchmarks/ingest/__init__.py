"""Weight syncs beside other S3 clients: speed, bytes moved, time to a verdict; and the programs for it."""
