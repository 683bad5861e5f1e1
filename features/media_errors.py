"""One error for media that give no frames: it carries the reason that goes into the ledger."""

from storage.ledger import Reason


class MediaError(ValueError):
    """A file without usable frames. `reason` is what the ledger says, the text is for a human."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
