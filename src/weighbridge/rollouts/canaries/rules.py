"""When a deployment can be a canary."""

from weighbridge.endpoints.model import Endpoint
from weighbridge.errors import ConflictError


def check_canary(endpoint: Endpoint) -> None:
    """ConflictError where there is nothing to share the requests with, or no room for two versions."""
    if endpoint.base_deployment_id is None:
        raise ConflictError(
            f"Endpoint {endpoint.id} serves no version yet that a canary could share its requests with; "
            "deploy without traffic_percent.",
            code="canary_impossible",
            param="traffic_percent",
        )
    if endpoint.replicas + endpoint.max_surge < 2:
        raise ConflictError(
            f"Endpoint {endpoint.id} has one replica and no surge, so two versions have no room on it; "
            "set max_surge to 1, or deploy without traffic_percent.",
            code="canary_impossible",
            param="traffic_percent",
        )
