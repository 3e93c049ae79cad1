"""Host crashes: found in what the kernel left behind, attributed, kept. Standard library only."""
