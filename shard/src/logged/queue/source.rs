//! What work queues ask of the log: a trait, so that they can be tested against one that fails and forgets at will.

use crate::log::{Bounds, CursorName, CursorState, Log, LogRefusal, ReaderId, Reading};

/// The partitions of one core. The verbs are those of [`Log`].
pub(crate) trait Source {
    fn epoch(&self) -> u64;
    fn is_ready(&self, partition: u16) -> bool;
    fn bounds(&self, partition: u16) -> Bounds;
    fn position_at(&self, partition: u16, time_ms: u64) -> u64;
    fn read(&mut self, reader: ReaderId, partition: u16, after: u64, bytes_max: usize) -> Reading;
    fn forget_reader(&mut self, reader: ReaderId);
    fn cursor(&self, partition: u16, name: &CursorName) -> Option<&CursorState>;
    fn may_have_lost_cursors(&self, partition: u16) -> bool;
    fn set_cursor(&mut self, partition: u16, name: &CursorName, state: CursorState)
    -> Result<(), LogRefusal>;
    fn put_back_cursor(&mut self, partition: u16, name: &CursorName, before: Option<CursorState>);
    fn is_cursor_safe(&self, partition: u16, name: &CursorName, position: u64) -> bool;
    fn cursors_synced(&self) -> u64;
    fn hurry_cursors(&mut self);
}

impl Source for Log {
    fn epoch(&self) -> u64 {
        self.epoch()
    }

    fn is_ready(&self, partition: u16) -> bool {
        self.is_ready(partition)
    }

    fn bounds(&self, partition: u16) -> Bounds {
        self.bounds(partition)
    }

    fn position_at(&self, partition: u16, time_ms: u64) -> u64 {
        self.position_at(partition, time_ms)
    }

    fn read(&mut self, reader: ReaderId, partition: u16, after: u64, bytes_max: usize) -> Reading {
        self.read(reader, partition, after, bytes_max)
    }

    fn forget_reader(&mut self, reader: ReaderId) {
        self.forget_reader(reader);
    }

    fn cursor(&self, partition: u16, name: &CursorName) -> Option<&CursorState> {
        self.cursor(partition, name)
    }

    fn may_have_lost_cursors(&self, partition: u16) -> bool {
        self.may_have_lost_cursors(partition)
    }

    fn set_cursor(
        &mut self,
        partition: u16,
        name: &CursorName,
        state: CursorState,
    ) -> Result<(), LogRefusal> {
        self.set_cursor(partition, name, state)
    }

    fn put_back_cursor(&mut self, partition: u16, name: &CursorName, before: Option<CursorState>) {
        self.put_back_cursor(partition, name, before);
    }

    fn is_cursor_safe(&self, partition: u16, name: &CursorName, position: u64) -> bool {
        self.is_cursor_safe(partition, name, position, false)
    }

    fn cursors_synced(&self) -> u64 {
        self.cursors_synced()
    }

    fn hurry_cursors(&mut self) {
        self.hurry_cursors();
    }
}
