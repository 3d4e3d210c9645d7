"""Fuzzer of configurations: `python tests/fuzz/configs.py --seconds 60 --seed 0`.

Mutates every shipped config, and writes random TOML and `--set` overrides with known and unknown keys. A
configuration is refused by a ConfigError of one line; or it resolves, and then the checks of each command
likewise raise nothing else, and it is the same after it is written and read back.
"""

import argparse
import random
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import get_args

import tomli_w

from fcf_jax.experiments.config.checks import Command, check
from fcf_jax.experiments.config.load import explain, load_config, validate
from fcf_jax.experiments.config.mistakes import Facts
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.source import shipped_configs
from fcf_jax.experiments.errors import ConfigError

LONGEST = 1100  # characters of a message
FACTS = Facts(num_users=300, num_items=200, num_interactions=9000)
KEYS = {
    section: list(field.annotation.model_fields) for section, field in ExperimentConfig.model_fields.items()
}
VALUES = (
    "0", "1", "-1", "7", "2.5", "-0.0", "1e-320", "1e308", "1e400", "inf", "nan", "true", "false", "0x7f",
    "4294967295", "4294967296", "9223372036854775808", "1" + "0" * 5000, "1979-05-27", "07:32:00",
    '""', '"x"', '"~"', '"~nobody/x"', '"a\\u0000b"', '"a\\nb"', '"\\u001b[2J"', '"' + "y" * 5000 + '"',
    '"whitespace"', '"simulated"', '"file"', '"explicit"', '"published"', '"secure_sum"', '"central_noise"',
    "[]", "[1]", "[1, 2]", "[2.0, 1.0]", '["a"]', "[[[]]]", "[" * 2000, "[" * 300 + "]" * 300,
    "{}", "{a = 1}", "{a.b.c = [{}]}", "{" * 500, "", "=", "#", "'", '"""', "'''x\ny'''", "\\", "é", "\x00",
)  # fmt: skip


def mutated(text: str, rng: random.Random) -> bytes:
    """Change a text in a few places: bytes, lines or values."""
    content = bytearray(text.encode())
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        where, kind = rng.randrange(len(content) + 1), rng.randrange(6)
        if kind == 0:
            content[where:where] = bytes([rng.randrange(256)])
        elif kind == 1:
            del content[where : where + rng.choice((1, 3, 30))]
        elif kind == 2:
            content[where:where] = rng.choice(VALUES).encode()
        elif kind == 3 and where < len(content):
            content[where] = rng.randrange(32, 127)
        else:
            lines = content.split(b"\n")
            line = rng.randrange(len(lines))
            name, _, _ = lines[line].partition(b"=")
            value = f"= {rng.choice(VALUES)}".encode()
            lines[line : line + 1] = rng.choice(([], [lines[line]] * 2, [name + value], [name + value]))
            content = bytearray(b"\n".join(lines))
    return bytes(content)


def invented(rng: random.Random) -> bytes:
    """Write sections and keys, most of them known, with any values."""
    lines = []
    for section in rng.sample([*KEYS, "modle", "", '"a b"', "data.name"], rng.randrange(1, 5)):
        lines.append(f"[{section}]")
        known = KEYS.get(section, ["alpha"])
        lines += [f"{key_of(known, rng)} = {rng.choice(VALUES)}" for _ in range(rng.randrange(4))]
    return "\n".join(lines).encode()


def override(rng: random.Random) -> str:
    """Write an argument of `--set`."""
    section, dot = rng.choice([*KEYS, "modle"]), rng.choice((".", ".", ".", ""))
    return f"{section}{dot}{key_of(KEYS.get(section, ['x']), rng)}={rng.choice(VALUES)}"


def key_of(known: list[str], rng: random.Random) -> str:
    return rng.choice([*known, *known, "x", "a.b", '"a\\nb"', "k" * 3000, "", "naïve"])


def refusal(error: ConfigError) -> str:
    """Check the message of a refusal."""
    message = str(error)
    assert "\n" not in message and 0 < len(message) <= LONGEST, message[:3000]
    return "refused"


def outcome(source: str | None, overrides: list[str]) -> str:
    """Resolve a configuration; return what became of it. Anything but a ConfigError is a failure."""
    try:
        config = load_config(source, overrides)
    except ConfigError as error:
        return refusal(error)
    written = tomli_w.dumps(config.to_dict())
    assert validate(config.to_dict()) == config and written and explain(config)
    for command in get_args(Command):
        for facts in (None, FACTS):
            try:
                check(config, command, facts)
            except ConfigError as error:
                refusal(error)
    return "resolved"


def fuzz(seconds: float, seed: int) -> Counter[str]:
    """Try configurations for some seconds; return how many had each outcome."""
    rng, ends = random.Random(seed), time.monotonic() + seconds
    shipped = [path.read_text() for path in shipped_configs().values()]
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="error"):
        path = Path(folder) / "mutated.toml"
        while time.monotonic() < ends:
            kind = rng.randrange(4)
            overrides = [override(rng)] if kind == 0 else []
            content = invented(rng) if kind == 1 else mutated(rng.choice(shipped), rng)
            path.write_bytes(content)
            try:
                outcomes[outcome(str(path) if kind else None, overrides)] += 1
            except Exception as error:
                kept = Path(tempfile.gettempdir()) / f"fuzz-config-{type(error).__name__}.toml"
                kept.write_bytes(content)
                raise AssertionError(f"{kept} {overrides!r:.300} (of {sum(outcomes.values())})") from error
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(dict(fuzz(arguments.seconds, arguments.seed)))
