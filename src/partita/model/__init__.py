"""Frozen values by subject: cluster, service, load, plan; and what GPUs can carry at best."""
