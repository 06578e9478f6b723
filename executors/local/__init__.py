"""The local runtime: replicas as processes on emulated or real devices, batched by the disciplines that replay uses."""
