"""One file per stage: its code version, its recipe and the plain function that does it."""
