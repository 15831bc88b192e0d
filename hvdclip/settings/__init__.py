"""The settings of algorithms, and what is said of wrong ones."""
