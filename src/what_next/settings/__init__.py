"""Settings: `setup.txt`, TOML and `key=value`, read and checked once."""
