"""Train networks with Lightning, and resume from their checkpoints."""
