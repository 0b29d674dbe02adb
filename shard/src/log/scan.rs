//! Walks the bytes of one segment through a small window: batches, damage, where it ends.
