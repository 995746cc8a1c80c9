"""The programs that run inside nodes: the UE and the edge."""
