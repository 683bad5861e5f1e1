"""Named errors of the storage layer. Each also subclasses the builtin a caller would naturally catch."""


class UnhashableIdentityError(TypeError):
    """A value in a recipe has no deterministic text form; the message names its place inside the recipe."""


class MissingRowError(LookupError):
    """A row was never committed: its shard has no commit record, or its part holds nothing for it."""


class FailedRowError(LookupError):
    """A row was worked on and failed; the ledger says why. It is not usable and not missing."""


class DamagedStoreError(ValueError):
    """Bytes on disk differ from what their record says (missing, truncated, flipped)."""


class LeaseHeldError(RuntimeError):
    """Another live process holds the lease."""


class LeaseLostError(RuntimeError):
    """The lease this process held was taken over, or it was never taken; nothing may be committed under it."""


class FingerprintMismatchError(ValueError):
    """A store was made by another recipe than the one it is opened for."""


class OutputMissingError(FileNotFoundError):
    """An output that a stage or an artifact record promises is not there."""


class DiskFullError(OSError):
    """No room left (ENOSPC, EDQUOT, EFBIG) while writing the named thing; what was committed before is untouched."""
