"""One module per dataset: what it is, where to get it, and how to find its clips."""
