"""Replay: queueing disciplines, the simulated cluster, and the score of a run."""
