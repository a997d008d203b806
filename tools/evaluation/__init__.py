"""What a suite of evaluations is made of."""
