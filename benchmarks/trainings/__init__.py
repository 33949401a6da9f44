"""What sparing does to a whole training: its error, its time, its gradients."""
