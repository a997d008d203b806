"""The corpus that comes with the project: synthetic non-verbal vocal sounds."""
