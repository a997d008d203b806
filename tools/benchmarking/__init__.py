"""The parts of `tools.benchmark`: what is measured, and the process that measures one side."""
