"""The label store: to which cluster every frame of a corpus belongs."""
