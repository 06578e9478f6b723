"""Executors: one file for each outside system that carries commands out."""
