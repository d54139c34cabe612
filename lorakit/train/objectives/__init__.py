"""What is learnt: from log-probabilities of tokens to a loss. An objective never sees a model."""
