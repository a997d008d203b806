"""Which clips make up a batch, and the arrays of it: a pure function of seed and step."""
