"""Settings: every variable of ours, where its value may come from, and all that can be wrong with it."""

from proxy.settings.database import artifact_destination, database_uri, proxy_database_uri
from proxy.settings.fields import Settings
from proxy.settings.load import Loaded, load
from proxy.settings.names import (
    REFUSED_OPTIONS,
    REFUSED_VARIABLES,
    may_reach_mlflow,
    refused_mlflow_option,
    service_links,
)
from proxy.settings.table import Row, describe, table
from proxy.settings.variables import Variable, options

__all__ = [
    "REFUSED_OPTIONS",
    "REFUSED_VARIABLES",
    "Loaded",
    "Row",
    "Settings",
    "Variable",
    "artifact_destination",
    "database_uri",
    "describe",
    "load",
    "may_reach_mlflow",
    "options",
    "proxy_database_uri",
    "refused_mlflow_option",
    "service_links",
    "table",
]
