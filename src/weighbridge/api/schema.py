"""Print the OpenAPI schema: `python -m weighbridge.api.schema > docs/api/openapi.json`."""

import json
import sys

from weighbridge.api.app import routes_app
from weighbridge.clock import Clock


def schema_text() -> str:
    return json.dumps(routes_app(Clock()).openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
