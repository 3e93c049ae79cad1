"""The kernel side: BTF, hooks, loading, the ring buffer and its records."""
