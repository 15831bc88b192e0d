"""What a configuration with mistakes raises."""


class ConfigError(ValueError):
    """The mistakes of a configuration, one per line."""
