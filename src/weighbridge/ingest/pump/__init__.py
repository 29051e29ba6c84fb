"""The pump: pinned files from a source into staging, in parallel, hashed on the way, resumable part by part."""
