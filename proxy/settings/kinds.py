"""What the fields of the settings are made of: their kinds of values, and what the docs say of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from proxy.settings import sign_in_values, values
from proxy.settings.values import read

Text = Annotated[str, read(values.text_value)]
Flag = Annotated[bool, read(values.on_off)]
Seconds = Annotated[float, read(values.seconds)]
Pace = Annotated[float, read(values.pace)]
Size = Annotated[int, read(values.size), "size"]
FilePath = Annotated[Path, read(values.path)]
Url = Annotated[str, read(sign_in_values.provider_url)]
Names = Annotated[tuple[str, ...], read(sign_in_values.names), "list"]


def setting(
    variable: str, group: str, default: object, description: str, *, example: str = "", default_note: str = ""
) -> Any:
    """A field of Settings. ``default_note`` says in the docs what happens where there is no default value."""
    extra: dict[str, Any] = {"group": group, "example": example, "default_note": default_note}
    return Field(default, validation_alias=variable, description=description, json_schema_extra=extra)
