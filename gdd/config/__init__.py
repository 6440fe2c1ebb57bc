"""The YAML a user writes, as frozen, typed records."""
