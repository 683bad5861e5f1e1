"""Corpora, frame sampling and decoding, region selection, extraction of one shard."""
