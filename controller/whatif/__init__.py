"""What-if tools of the capacity planner: searches and sweeps over many replays, on all cores or a Dask cluster."""
