"""The flat store: a corpus decoded once, and read at any place."""
