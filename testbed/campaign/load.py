"""Reading of campaign files, checked as strictly as lab files are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from testbed.campaign.points import Campaign
from testbed.campaign.schema import CampaignSpec
from testbed.errors import InputError
from testbed.labfile.schema_errors import input_error
from testbed.labfile.yaml_text import parse_yaml
from testbed.text_files import read_text

PAGE = "docs/campaigns.md"


def load_campaign(path: Path) -> Campaign:
    """Read and check a campaign file; its name is the file's, if it gives none. Raises InputError."""
    raw = parse_yaml(read_text(path, "campaign file"), str(path))
    if not isinstance(raw, dict):
        raise InputError(
            "a campaign file is a mapping of keys",
            where=str(path),
            value=raw,
            allowed=", ".join(CampaignSpec.model_fields),
            fix=f"See {PAGE}.",
        )
    return campaign_of({"name": path.stem, **raw}, str(path), path.parent.absolute())


def campaign_of(raw: Mapping[str, Any], where: str, folder: Path) -> Campaign:
    """Check a campaign given as a mapping; lab files are relative to ``folder``. Raises InputError.

    Keys at the top that begin with ``x-`` are for whoever wrote the file, as in a lab file.
    """
    given = {key: value for key, value in raw.items() if not str(key).startswith("x-")}
    try:
        return Campaign(CampaignSpec.model_validate(given), where, folder)
    except ValidationError as error:
        raise input_error(error, where, CampaignSpec, PAGE) from None
