"""What a frozen model, or MFCCs, say of recordings: hidden states, vectors, clusters, scores."""
