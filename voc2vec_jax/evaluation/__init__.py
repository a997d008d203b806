"""Fine-tuning and baselines fold by fold, and what can be said of their scores."""
