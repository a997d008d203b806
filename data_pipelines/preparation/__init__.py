"""Preparing datasets as TFDS records, and finding the clips that two corpora share."""
