"""The roles of a server, each as a process of its own."""
