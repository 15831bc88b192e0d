"""What training costs on N ranks that average every I steps: the model, its links, and predictions."""
