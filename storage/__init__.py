"""Bytes and identity: artifact records, fingerprints, manifests, stores, failure ledger, checkpoints."""
