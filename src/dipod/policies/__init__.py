"""What is trained: models, how they sample, and what they say about their own likelihood."""
