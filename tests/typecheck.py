"""How shapes and types are checked in tests: an int is a float, as PEP 484 has it."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""For `jaxtyping.install_import_hook`."""
