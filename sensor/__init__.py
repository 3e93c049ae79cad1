"""Linux endpoint sensor: verified eBPF probes, an unprivileged rule engine, Prometheus metrics."""

__version__ = "1.0.0.dev0"
