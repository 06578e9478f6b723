"""Policy plugins: the host that calls them, the built-in policies, and the kit for authors."""
