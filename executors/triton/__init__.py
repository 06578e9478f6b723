"""Triton Inference Server: models loaded, batched and counted through its own HTTP interface."""
