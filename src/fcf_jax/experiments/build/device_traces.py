"""Traces of devices: CSV files that say which users come back, and how fast their devices are."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from fcf_jax.channel import Devices
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.messages import count_of

_MOST_ROUNDS = 100_000


def read_dropouts(path: str, user_labels: np.ndarray) -> Float[np.ndarray, "..."]:
    """Read the dropout probabilities of users.

    Args:
        path: CSV with columns user and round, a row for each round that a user comes back in; or user and
            availability, the chance of coming back.
        user_labels: label of each user; users that the file lacks never come back in the first form.

    Returns:
        Probabilities [rounds, users] or [users].

    Raises:
        ConfigError: naming the key, for a file that cannot be read or has a bad line.
    """
    table = _Table(path, "devices.dropout_trace", user_labels)
    if "availability" in table.columns:
        available = table.of_all_users("availability")
        table.require((available >= 0) & (available <= 1), "availability", "in [0, 1]")
        return 1.0 - table.by_user(available)
    if "round" not in table.columns:
        table.refuse(f"expected a column round or availability, got {', '.join(table.columns)}; add one")
    rounds = table.numbers("round")
    is_round = (rounds >= 0) & (rounds == np.floor(rounds)) & (rounds < _MOST_ROUNDS)
    table.require(is_round, "round", f"a whole number from 0 to {_MOST_ROUNDS - 1}")
    dropped = np.ones((int(rounds.max()) + 1, len(user_labels)), np.float32)
    is_known = table.users >= 0
    dropped[rounds[is_known].astype(int), table.users[is_known]] = 0.0
    return dropped


def read_devices(path: str, user_labels: np.ndarray) -> Devices:
    """Read the devices of users.

    Args:
        path: CSV with columns user, speed (1 for the reference device) and bandwidth (bytes per second), all
            above 0, a line for each user.
        user_labels: label of each user.

    Raises:
        ConfigError: naming the key, for a file that cannot be read, has a bad line or lacks a user.
    """
    table = _Table(path, "devices.trace", user_labels)
    columns = {}
    for name in ("speed", "bandwidth"):
        numbers = table.of_all_users(name)
        table.require(numbers > 0, name, "above 0")
        columns[name] = table.by_user(numbers)
    return Devices(columns["speed"], columns["bandwidth"])


class _Table:
    """A CSV file with a column of users.

    Attributes:
        columns: names of the other columns.
        users: position of the user of each line; -1 for a user that the data lacks.
    """

    def __init__(self, path: str, key: str, user_labels: np.ndarray) -> None:
        import pandas as pd

        self.path, self.key, self.user_labels = Path(path), key, user_labels
        try:
            self.frame = pd.read_csv(self.path, dtype=str, keep_default_na=False, skipinitialspace=True)
        except (OSError, ValueError) as error:  # pandas' parsing errors are ValueErrors
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ConfigError(f"{key}: {path}: {reason}; expected a CSV file with a header") from error
        self.columns = [name for name in self.frame.columns if name != "user"]
        if "user" not in self.frame.columns:
            self.refuse(f"expected a column user, got {', '.join(self.columns)}; add it")
        if self.frame.empty:
            self.refuse("expected lines after the header, got none; add some")
        self.users = pd.Index(np.asarray(user_labels).astype(str)).get_indexer(self.frame["user"].str.strip())
        if not np.any(self.users >= 0):
            self.refuse(
                f"expected users of the data, such as {user_labels[0]}, got {self.frame['user'].iloc[0]}; "
                "use the ids of the data"
            )

    def refuse(self, message: str, line: int | None = None) -> None:
        """Refuse the file.

        Raises:
            ConfigError: always, naming the key and the line.
        """
        place = f"{self.path}" if line is None else f"{self.path}:{line}"
        raise ConfigError(f"{self.key}: {place}: {message}")

    def require(self, is_good: np.ndarray, name: str, expected: str) -> None:
        """Refuse the first line that is not good; the header is line 1."""
        if not np.all(is_good):
            row = int(np.argmin(is_good))
            self.refuse(f"expected {name} {expected}, got {self.frame[name].iloc[row]}; correct it", row + 2)

    def numbers(self, name: str) -> Float[np.ndarray, "lines"]:
        """Return the numbers of a column."""
        import pandas as pd

        if name not in self.columns:
            self.refuse(f"expected a column {name}, got {', '.join(self.columns)}; add it")
        numbers = np.asarray(pd.to_numeric(self.frame[name], errors="coerce"), np.float64)
        self.require(np.isfinite(numbers), name, "as a number")
        return numbers

    def of_all_users(self, name: str) -> Float[np.ndarray, "lines"]:
        """Return the numbers of a column that has one line for each user."""
        counts = np.bincount(self.users[self.users >= 0], minlength=len(self.user_labels))
        if (counts != 1).any():
            user = self.user_labels[int(np.argmax(counts != 1))]
            found = count_of(int(counts[np.argmax(counts != 1)]), "line")
            self.refuse(f"expected one line for each user, got {found} of {user}; correct it")
        return self.numbers(name)

    def by_user(self, numbers: np.ndarray) -> Float[np.ndarray, "users"]:
        """Arrange the numbers of the lines by user."""
        values = np.empty(len(self.user_labels))
        is_known = self.users >= 0
        values[self.users[is_known]] = numbers[is_known]
        return values
