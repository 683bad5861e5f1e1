"""The shard plan: which manifest rows make a shard."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ShardPlan:
    """Which manifest rows make a shard: a pure function of the manifest's length and `rows_per_shard`."""

    num_rows: int
    rows_per_shard: int

    def __post_init__(self) -> None:
        if self.num_rows < 0 or self.rows_per_shard < 1:
            raise ValueError(
                f"shard plan: num_rows {self.num_rows} must be >= 0, rows_per_shard {self.rows_per_shard} must be >= 1"
            )

    @property
    def num_shards(self) -> int:
        return -(-self.num_rows // self.rows_per_shard)

    def range_of(self, shard: int) -> range:
        """Rows of a shard. Raises IndexError outside [0, num_shards)."""
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard {shard}: the plan has shards 0 to {self.num_shards - 1}")
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.num_rows))

    def shard_of(self, row: int) -> int:
        """Shard of a row. Raises IndexError outside [0, num_rows)."""
        if not 0 <= row < self.num_rows:
            raise IndexError(f"row {row}: the plan has rows 0 to {self.num_rows - 1}")
        return row // self.rows_per_shard
