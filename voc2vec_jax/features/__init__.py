"""What a frozen model, or MFCCs, say of recordings: frames, vectors, clusters."""
