"""Weights of every origin, read and written without losing or inventing anything."""
