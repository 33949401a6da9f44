"""What a training step of a whole network takes and comes to under STAN, against stock PyTorch."""
