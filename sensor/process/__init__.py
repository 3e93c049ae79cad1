"""Who did it: the process table and what it is made from (lineage, users, containers)."""
