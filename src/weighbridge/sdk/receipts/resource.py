"""The call that fetches a receipt."""

from weighbridge.sdk.receipts.verify import Receipt, receipt_of
from weighbridge.sdk.resources import Caller, segment


class Receipts:
    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def get(self, deployment_id: str) -> Receipt:
        """A deployment's receipt as far as it goes; check it with `verify.examine`."""
        path = f"/management/v1/deployments/{segment(deployment_id)}/receipt"
        return receipt_of(self._caller.get(path))
