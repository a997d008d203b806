"""File formats of weights: Hugging Face, PyTorch, fairseq; nothing in them is run."""
