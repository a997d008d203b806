"""Several devices and several processes: where arrays live, who writes, who holds the lock."""
