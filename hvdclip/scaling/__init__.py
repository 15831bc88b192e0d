"""What training costs on N ranks that average every I steps: the model, its links, and what to expect of them."""
