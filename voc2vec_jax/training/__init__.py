"""The one training loop: where it starts, its update, what it saves and leaves."""
