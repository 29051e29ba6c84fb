"""Cases of weight syncs, by what is wrong."""
