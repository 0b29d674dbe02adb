//! Reads every byte of a log and says what of it is not what was written.
