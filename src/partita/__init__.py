"""Partita: a trace-driven autoscaling controller for GPU inference clusters, with policy plugins."""

__version__ = "0.1.0"
