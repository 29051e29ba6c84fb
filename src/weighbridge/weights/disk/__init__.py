"""How the weight store on a file system keeps its promises: durability, locks, collection, quarantine."""
