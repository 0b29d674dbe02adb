//! Sizes of one core's ring and of its receive buffers.

use std::io;

/// How large one core's ring is. The defaults suit an unprivileged process: with 8 MiB of lockable memory about sixty
/// such rings fit.
///
/// Memory a core: `entries` × 64 bytes (submission queue) + `cq_entries` × 16 bytes (completion queue) +
/// `buffers` × (`buffer_bytes` + 16 bytes). Buffers cost address space until a byte arrives in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UringConfig {
    /// Submission queue entries, a power of two. Default 1,024. More operations than this in one turn cost an extra
    /// system call, nothing else.
    pub entries: u32,
    /// Completion queue entries, a power of two, at least `entries`. Default 4,096. When more complete at once the
    /// kernel keeps them aside and ends multishot receives, which are armed anew.
    pub cq_entries: u32,
    /// Receive buffers, a power of two up to 32,768. Default 1,024.
    pub buffers: u16,
    /// Bytes of each receive buffer. Default 16 KiB.
    pub buffer_bytes: u32,
    /// Whether one buffer may serve several receives, where the kernel can do that (Linux 6.12). Default true.
    pub incremental: bool,
}

impl Default for UringConfig {
    fn default() -> UringConfig {
        UringConfig {
            entries: 1024,
            cq_entries: 4096,
            buffers: 1024,
            buffer_bytes: 16 * 1024,
            incremental: true,
        }
    }
}

impl UringConfig {
    /// Bytes of the queues and the buffer ring, which the kernel may count against `RLIMIT_MEMLOCK`. The buffers
    /// themselves are not locked.
    #[must_use]
    pub fn locked_bytes(&self) -> u64 {
        u64::from(self.entries) * 64 + u64::from(self.cq_entries) * 16 + u64::from(self.buffers) * 16
    }

    /// Refuses sizes that the kernel would refuse with less to say.
    ///
    /// # Errors
    /// `InvalidInput`, naming the field and what it may be.
    pub fn check(&self) -> io::Result<()> {
        let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if !self.entries.is_power_of_two() || self.entries > 32_768 {
            return refuse("ring entries must be a power of two up to 32,768");
        }
        if !self.cq_entries.is_power_of_two() || self.cq_entries < self.entries || self.cq_entries > 65_536 {
            return refuse("completion entries must be a power of two, at least the entries, up to 65,536");
        }
        if !self.buffers.is_power_of_two() || self.buffers > 32_768 {
            return refuse("receive buffers must be a power of two up to 32,768");
        }
        if self.buffer_bytes == 0 || self.buffer_bytes > 1 << 24 {
            return refuse("a receive buffer must have 1 byte to 16 MiB");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_fit_an_unprivileged_process_many_times() {
        let config = UringConfig::default();
        config.check().expect("defaults");
        assert!(config.locked_bytes() * 48 <= 8 << 20);
    }

    #[test]
    fn each_bad_size_is_refused_by_its_name() {
        let good = UringConfig::default;
        for (config, word) in [
            (
                UringConfig {
                    entries: 1000,
                    ..good()
                },
                "ring entries",
            ),
            (
                UringConfig {
                    cq_entries: 512,
                    ..good()
                },
                "completion entries",
            ),
            (UringConfig { buffers: 0, ..good() }, "receive buffers"),
            (
                UringConfig {
                    buffer_bytes: 0,
                    ..good()
                },
                "a receive buffer",
            ),
        ] {
            let refusal = config.check().expect_err("refused").to_string();
            assert!(refusal.starts_with(word), "{refusal}");
        }
    }
}
