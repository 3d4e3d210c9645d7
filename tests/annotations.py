"""How annotations are executed: as Python reads them, an int will do where a float is asked for."""

from beartype import BeartypeConf, beartype

executed = beartype(conf=BeartypeConf(is_pep484_tower=True))
