"""The controller: the loop, its decisions, and the only part that knows the whole."""
