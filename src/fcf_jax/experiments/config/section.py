"""Base of the sections of a configuration: frozen, strict, without unknown keys or numbers that overflow."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

_MOST = 2**31 - 1  # what 32-bit integers hold
LARGEST_SEED = 2**32 - 1  # what JAX takes without wrapping around


class Section(BaseModel):
    """A section: keys with defaults, bounds and meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _refuse_overflow(cls, value: Any, info: ValidationInfo) -> Any:
        most = LARGEST_SEED if info.field_name == "seed" else _MOST
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number > most:
                raise ValueError(f"expected at most {most}")
        return value
