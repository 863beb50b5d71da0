"""Records as Arrow tables whose types stay the same from block to block."""
