"""runbench: a load of distinct and repeated inputs against a gateway, and the figures it gives."""
