"""The live demonstration: a real Triton server on the CPU, driven by the loop, and what replay says of each run."""
